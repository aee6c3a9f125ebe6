"""Complete runs anywhere below folders, found by the hash of their configuration."""

import os
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path

from kdad.engine.run_folder import RESULTS, RunFolder

OPAQUE = {RunFolder("").maps.name, RunFolder("").checkpoints.name}  # of a run: many files, and no results
# By the file of results: what tells whether it has changed, and the configuration that it is complete of. A sweep asks
# for each of its jobs, of the same thousand files.
_read: dict[Path, tuple[tuple[int, ...], str | None]] = {}


def find_done(folder: RunFolder, of: str, roots: Iterable[Path], on: str | None = None) -> RunFolder | None:
    """Return where a run lies of which `is_trained` is true: here or beside it, else anywhere below `roots`."""
    beside = takewhile(lambda place: place.path.exists(), folder.siblings())
    below = (place for root in dict.fromkeys(roots) for place in _search(root, of))
    return next((place for some in (beside, below) for place in some if place.is_trained(of, on)), None)


def walk_folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and all below it that may hold a run, each with the names of its files."""
    for name, inside, files in os.walk(root):
        written = RunFolder(name).written  # another folder may be called as a run's own are
        closed = {folder for folder in OPAQUE.intersection(inside) if written.lists_any_in(folder)}
        inside[:] = [folder for folder in inside if folder not in closed and not folder.startswith(".")]
        yield Path(name), files


def _search(root: Path, of: str) -> Iterator[RunFolder]:
    """Yield the runs of this configuration: those known of, then, when these were not it, those that have come since.

    Each file is read once, and again when it has changed.
    """
    top = root.absolute()
    known = [path for path, (_, mine) in _read.items() if mine == of and path.is_relative_to(top)]
    yield from (RunFolder(root / path.parent.relative_to(top)) for path in sorted(known))
    for folder in sorted(folder for folder, files in walk_folders(root) if RESULTS in files):
        path = folder.absolute() / RESULTS
        try:
            stat = path.stat()
        except OSError:  # gone in the meantime
            continue
        state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if _read.get(path, ((), None))[0] != state:
            run = RunFolder(folder)
            results = run.read()
            _read[path] = state, run.read_hash(results) if run.is_complete(results=results) else None
            if _read[path][1] == of:
                yield run
