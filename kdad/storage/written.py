"""Which files in a folder are kdad's own: it removes and replaces no others."""

import json
from collections.abc import Iterable
from contextlib import suppress
from glob import escape
from pathlib import Path

from kdad.storage.atomic import atomic_write, name_temporary

MARKER = ".kdad"  # the files that kdad has written in a folder, one a line, by their paths in it
BREAKS = "\n\r"
QUOTED = "/"  # before a path, which has a line break, as JSON: no path in a folder begins so


class WrittenFiles:
    """The list of files that kdad has written in a folder, kept there in a file of its own, the marker."""

    def __init__(self, folder: Path):
        self.folder, self.marker = folder, folder / MARKER

    def read(self) -> list[Path]:
        """Return the paths in the list, whether the files are still there or not; none where there is no list."""
        names = [Path(name) for name in self._read_names() if name]
        folders = {parent for name in names for parent in name.parents if parent.parts}
        links = {folder for folder in folders if (self.folder / folder).is_symlink()}  # which lead elsewhere
        return [
            self.folder / name
            for name in dict.fromkeys(names)
            if not name.is_absolute() and ".." not in name.parts and links.isdisjoint(name.parents)
        ]

    def lists_any_in(self, folder: str) -> bool:
        """Return whether files in this folder of the folder are in the list."""
        return any(name.startswith(f"{folder}/") for name in self._read_names())

    def add(self, paths: Iterable[Path]) -> None:
        """Add files that are about to be written. The folder is made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.marker.open("a", encoding="utf-8", errors="surrogateescape", newline="") as marker:
            marker.write(self._format(paths))

    def replace(self, paths: Iterable[Path]) -> None:
        """Replace the list, whole or not at all."""
        with atomic_write(self.marker) as marker:
            marker.write(self._format(paths))

    def remove_left(self) -> None:
        """Remove the temporary files that a killed process has left beside those in the list."""
        for path in self.read():
            for left in path.parent.glob(f"{escape(name_temporary(path))}????????"):
                with suppress(OSError):
                    left.unlink()

    def _read_names(self) -> list[str]:
        try:
            lines = self.marker.read_bytes().decode("utf-8", "surrogateescape").split("\n")
        except OSError:
            return []
        return [_read_quoted(line) if line.startswith(f'{QUOTED}"') else line.rstrip("\r") for line in lines]

    def _format(self, paths: Iterable[Path]) -> str:
        names = [path.relative_to(self.folder).as_posix() for path in paths]
        return "".join(f"{QUOTED + json.dumps(n) if set(n) & set(BREAKS) else n}\n" for n in names)


def _read_quoted(line: str) -> str:
    try:
        return str(json.loads(line.removeprefix(QUOTED)))
    except ValueError:  # cut, when its writer was killed
        return ""
