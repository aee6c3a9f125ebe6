"""Files of the cache: listed and removed, for which nothing of what they hold is read."""

from contextlib import suppress
from pathlib import Path

GB = 2**30


def list_files(folder: Path, pattern: str) -> list[tuple[Path, float, int]]:
    """List the files in `folder` that match `pattern`, leaving out those that other jobs remove meanwhile.

    Returns (path, time of last use in seconds since 1970, bytes) of each.
    """
    found = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            status = path.stat()
            found.append((path, status.st_mtime, status.st_size))
    return found


def remove(path: Path) -> None:
    """Remove an array from disk. Jobs that have it mapped keep it until they end."""
    path.unlink(missing_ok=True)
    path.with_suffix(".txt").unlink(missing_ok=True)
