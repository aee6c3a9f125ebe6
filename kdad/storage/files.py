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


def write_note(path: Path, what: str, seconds: float) -> None:
    """Write beside an array what it is and how long making it took."""
    path.with_suffix(".txt").write_text(f"{what}\n{seconds:.3f}\n", encoding="utf-8")


def read_note(path: Path) -> tuple[str, float]:
    """Return what an array is and the seconds that making it took, as far as what lies beside it tells."""
    try:
        what, seconds = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
        return what, max(float(seconds), 0)
    except (OSError, ValueError):  # removed meanwhile, or damaged: it is no more than a note
        return "", 0


def remove(path: Path) -> None:
    """Remove an array from disk. Jobs that have it mapped keep it until they end."""
    path.unlink(missing_ok=True)
    path.with_suffix(".txt").unlink(missing_ok=True)
