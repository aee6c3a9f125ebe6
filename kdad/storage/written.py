"""Which files in a folder are kdad's own: it removes and replaces no others."""

from collections.abc import Iterable
from contextlib import suppress
from glob import escape
from pathlib import Path

from kdad.storage.atomic import atomic_write, name_temporary

MARKER = ".kdad"  # the files that kdad has written in a folder, one a line, by their paths in it


class WrittenFiles:
    """The list of files that kdad has written in a folder, kept there in a file of its own, the marker."""

    def __init__(self, folder: Path):
        self.folder, self.marker = folder, folder / MARKER

    def read(self) -> list[Path]:
        """Return the paths in the list, whether the files are still there or not; none where there is no list."""
        try:
            lines = self.marker.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except (OSError, ValueError):
            return []
        names = [Path(name) for name in lines if name]
        folders = {parent for name in names for parent in name.parents if parent.parts}
        links = {folder for folder in folders if (self.folder / folder).is_symlink()}  # which lead elsewhere
        return [
            self.folder / name
            for name in dict.fromkeys(names)
            if not name.is_absolute() and ".." not in name.parts and links.isdisjoint(name.parents)
        ]

    def add(self, paths: Iterable[Path]) -> None:
        """Add files that are about to be written. The folder is made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.marker.open("a", encoding="utf-8", errors="surrogateescape") as marker:
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

    def _format(self, paths: Iterable[Path]) -> str:
        return "".join(f"{path.relative_to(self.folder).as_posix()}\n" for path in paths)
