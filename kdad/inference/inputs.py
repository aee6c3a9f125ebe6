"""Which files are to be judged: named, listed, found by a pattern, read from standard input, or still to come."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from glob import has_magic
from pathlib import Path
from queue import Empty, Queue
from typing import NamedTuple

from kdad.data.images import SUFFIXES
from kdad.data.oddities import is_unread
from kdad.errors import UserError
from kdad.storage.written import MARKER

# Folders of pictures that kdad predict writes
DRAWN = ("overlays", "maps", "masks", "anomaly_images", "anomaly_images_thresholded")
POLL = 1.0  # seconds between two looks at a folder that is watched


class Item(NamedTuple):
    """One file to judge: where it lies, and a name for its pictures below the folder of results."""

    path: Path
    name: str


class Inputs:
    """The files that `input=` names: a file, a folder with all below it, a pattern, `-` for standard input, or several.

    Hidden files are left out, and what kdad has written: `results`, and other folders of results below. `left_out`
    counts files that may be pictures and are not read. `key` is the configuration's, for messages. Raises `UserError`
    where a name stands for nothing, unless it is `patient`: then something may arrive.
    """

    def __init__(
        self, names: Sequence[str], results: Path, lines: Iterable[str] | None = None, key: str = "input",
        patient: bool = False,
    ):  # fmt: skip
        self.names, self.results = [str(name) for name in names], results.resolve()
        self.key, self.patient = key, patient
        self.left_out: Counter[str] = Counter()
        if not self.names:
            raise UserError(
                f"{key}=<file, folder or pattern> is needed: what is to be judged; - reads paths from stdin"
            )
        if "-" in self.names and lines is None:
            raise UserError(f"{key}=-: only the input of kdad predict is read from standard input")
        self._lines = Lines(lines) if lines is not None else None
        self.roots = {name: self._find_root(name) for name in self.names if name != "-"}
        short = Counter(root.name for root in set(self.roots.values()))
        several = len(set(self.roots.values())) > 1
        self.prefixes: dict[Path, str] = {}
        for number, root in enumerate(dict.fromkeys(self.roots.values()), start=1):
            unique = root.name if short[root.name] == 1 else f"{number}_{root.name}"
            self.prefixes[root] = f"{unique}/" if several or "-" in self.names else ""

    def list_files(self) -> Iterator[Item]:
        """Yield what is there now, each file once, in order: of a folder or pattern sorted by name."""
        return (item for item in self.follow() if item is not None)

    def follow(self, wait: bool = True) -> Iterator[Item | None]:
        """Yield what is there, as `list_files`; None where standard input has nothing more for the moment.

        With `wait` False what it may still have is left for another time.
        """
        seen: set[Path] = set()
        self.left_out.clear()
        for name in self.names:
            for found in self._read_lines(wait) if name == "-" else self._list(name):
                if found is None:
                    yield None
                elif found[0] not in seen:
                    seen.add(found[0])
                    yield Item(found[0], self._name(*found))

    def watch(self, seconds: float | None) -> Iterator[Item | None]:
        """Yield what is there and then what arrives or changes, once it stays as it is; None where nothing is to do.

        Ends after so many seconds without a new file; never where they are None.
        """
        seen: dict[Path, tuple[int, int]] = {}
        before: dict[Path, tuple[int, int]] = {}
        quiet = time.monotonic()
        while seconds is None or time.monotonic() - quiet < seconds:
            for item in [item for item in self.follow(wait=False) if item is not None]:
                try:
                    status = item.path.stat()
                except OSError:  # gone meanwhile
                    continue
                state = status.st_size, status.st_mtime_ns
                if seen.get(item.path) == state:
                    continue
                quiet = time.monotonic()
                if before.get(item.path) == state or time.time() - status.st_mtime > 2 * POLL:
                    seen[item.path] = state
                    yield item
                before[item.path] = state
            yield None
            time.sleep(POLL)

    def describe_left_out(self) -> list[str]:
        """Return a sentence on the files that may be pictures and are not read, if there were any."""
        counted = ", ".join(f"{n} {suffix}" for suffix, n in sorted(self.left_out.items()))
        return [f"Left out, since such files are not read: {counted}"] if counted else []

    def _find_root(self, name: str) -> Path:
        path = Path(name).expanduser().absolute()
        if path.is_dir():
            return path
        if not path.exists() and not has_magic(name):
            raise UserError(f"{self.key}={name}: no such file or folder (looked for {path})")
        return path.parent if path.exists() else Path(*_until_magic(path.parts))

    def _list(self, name: str) -> Iterator[tuple[Path, Path]]:
        root, path = self.roots[name], Path(name).expanduser().absolute()
        found = 0
        if path.is_dir():
            for picture in self._walk(path):
                found += 1
                yield picture, root
        elif path.is_file():
            found += 1
            yield path, root
        elif has_magic(name):
            pattern = path.relative_to(root)
            hidden = _has_hidden(pattern)  # asked for by name; else left out, as below a folder
            matches = root.glob(pattern.as_posix())
            for match in sorted(m for m in matches if hidden or not _has_hidden(m.relative_to(root))):
                # `resolve` raises where links lead in a circle; such a file is told of, as a damaged picture is.
                ours = Path(os.path.realpath(match)).is_relative_to(self.results) or self._is_written(match, root)
                if not ours and self._is_picture(match):
                    found += 1
                    yield match, root
        if not found and not self.patient:
            raise UserError(f"{self.key}={name}: no picture there")

    def _walk(self, top: Path) -> Iterator[Path]:
        for place, folders, names in os.walk(top):
            inside = Path(place).resolve() == self.results  # results may go into the very folder
            folders[:] = sorted(
                name for name in folders
                if name[0] != "." and (Path(place) / name).resolve() != self.results
                and not (Path(place) / name / MARKER).exists() and not (inside and name in DRAWN)
            )  # fmt: skip
            for name in sorted(names):
                if self._is_picture(Path(place) / name):
                    yield Path(place) / name

    def _is_written(self, path: Path, root: Path) -> bool:
        """Return whether a file lies in a folder of results below root."""
        return any((folder / MARKER).exists() for folder in path.parents if folder != root and root in folder.parents)

    def _is_picture(self, path: Path) -> bool:
        suffix = path.suffix.lower()
        if path.name[0] == "." or (path.exists() and not path.is_file()):  # of a pipe, reading has no end
            return False
        if is_unread(path):
            self.left_out[suffix or "without a suffix"] += 1
        return suffix in SUFFIXES

    def _read_lines(self, wait: bool) -> Iterator[tuple[Path, Path] | None]:
        for line in self._lines.read(wait) if self._lines else ():
            if line is None:
                yield None
            elif text := line.rstrip("\r\n"):
                path = Path(text).expanduser().absolute()
                yield path, Path(path.anchor)

    def _name(self, path: Path, root: Path) -> str:
        return self.prefixes.get(root, "") + path.relative_to(root).as_posix()


class Lines:
    """Lines as they come, read on a thread, so that who waits for more of them can do something else."""

    def __init__(self, lines: Iterable[str]):
        self.queue: Queue[str | None] = Queue(1000)
        self.ended = False
        threading.Thread(target=self._fill, args=(lines,), daemon=True).start()

    def _fill(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.queue.put(line)
        self.queue.put(None)

    def read(self, wait: bool) -> Iterator[str | None]:
        """Yield the lines up to the last; None after a while without one, then wait on, or without `wait` end."""
        while not self.ended:
            try:
                line = self.queue.get(timeout=POLL)
            except Empty:
                if not wait:
                    return
                yield None
                continue
            self.ended = line is None
            if line is not None:
                yield line


def _has_hidden(path: Path) -> bool:
    return any(part[0] == "." for part in path.parts)


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        if has_magic(part):
            return
        yield part
