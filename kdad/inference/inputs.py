"""Which files are to be judged: named, listed, found by a pattern, read from standard input, or still to come."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from glob import has_magic
from pathlib import Path
from typing import NamedTuple

from kdad.data.images import SUFFIXES
from kdad.data.oddities import is_unread
from kdad.errors import UserError

POLL = 1.0  # seconds between two looks at a folder that is watched


class Item(NamedTuple):
    """One file to judge: where it lies, and its name below the folder of results, the same at every call."""

    path: Path
    name: str


class Inputs:
    """The files that `input=` names: a file, a folder with all below it, a pattern, `-` for standard input, or several.

    Hidden files are left out, and what lies below `results`. `left_out` counts pictures of suffixes that are not read.
    Raises `UserError` where a name stands for nothing.
    """

    def __init__(self, names: Sequence[str], results: Path, lines: Iterator[str] | None = None):
        self.names, self.results, self.lines = [str(name) for name in names], results.resolve(), lines
        self.left_out: Counter[str] = Counter()
        if not self.names:
            raise UserError("input=<file, folder or pattern> is needed: what is to be judged; - reads paths from stdin")
        self.roots = {name: self._find_root(name) for name in self.names if name != "-"}
        short = Counter(root.name for root in set(self.roots.values()))
        several = len(set(self.roots.values())) > 1
        self.prefixes: dict[Path, str] = {}
        for number, root in enumerate(dict.fromkeys(self.roots.values()), start=1):
            unique = root.name if short[root.name] == 1 else f"{number}_{root.name}"
            self.prefixes[root] = f"{unique}/" if several or "-" in self.names else ""

    def list_files(self) -> Iterator[Item]:
        """Yield what is there now, each file once, in order: of a folder or pattern sorted by name."""
        seen: set[Path] = set()
        self.left_out.clear()
        for name in self.names:
            for path, root in self._read_lines() if name == "-" else self._list(name):
                if path not in seen:
                    seen.add(path)
                    yield Item(path, self._name(path, root))

    def watch(self, seconds: float | None) -> Iterator[Item | None]:
        """Yield what is there and then what arrives, once it has stopped growing; None where there is nothing to do.

        Ends after so many seconds without a new file; never where they are None.
        """
        seen: set[Path] = set()
        sizes: dict[Path, int] = {}
        quiet = time.monotonic()
        first = True
        while seconds is None or time.monotonic() - quiet < seconds:
            for item in list(self.list_files()):
                if item.path in seen:
                    continue
                size = item.path.stat().st_size if item.path.exists() else -1
                if first or sizes.get(item.path) == size:
                    seen.add(item.path)
                    quiet = time.monotonic()
                    yield item
                else:
                    sizes[item.path] = size
                    quiet = time.monotonic()
            first = False
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
        if path.exists() or not has_magic(name):
            if not path.exists():
                raise UserError(f"input={name}: no such file or folder (looked for {path})")
            return path.parent
        return Path(*_until_magic(path.parts))

    def _list(self, name: str) -> Iterator[tuple[Path, Path]]:
        root, path = self.roots[name], Path(name).expanduser().absolute()
        if path.is_dir():
            for place, folders, names in os.walk(path):
                folders[:] = sorted(f for f in folders if f[0] != "." and (Path(place) / f).resolve() != self.results)
                for name in sorted(names):
                    if self._is_picture(path := Path(place) / name):
                        yield path, root
        elif path.exists():
            yield path, root
        else:
            matches = sorted(root.glob(path.relative_to(root).as_posix()))
            files = [match for match in matches if match.is_file() and not match.resolve().is_relative_to(self.results)]
            if not files:
                raise UserError(f"input={name}: no file fits this pattern")
            yield from ((match, root) for match in files if self._is_picture(match))

    def _is_picture(self, path: Path) -> bool:
        suffix = path.suffix.lower()
        if path.name[0] == ".":
            return False
        if is_unread(path):
            self.left_out[suffix or "without a suffix"] += 1
        return suffix in SUFFIXES

    def _read_lines(self) -> Iterator[tuple[Path, Path]]:
        for line in self.lines or ():
            if text := line.rstrip("\r\n"):
                path = Path(text).expanduser().absolute()
                yield path, Path(path.anchor)

    def _name(self, path: Path, root: Path) -> str:
        return self.prefixes.get(root, "") + path.relative_to(root).as_posix()


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        if has_magic(part):
            return
        yield part
