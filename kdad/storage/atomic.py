"""Files and folders that are either whole or absent, however a run ends."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from kdad.errors import UserError

# Read once, since reading it means setting it, for all threads.
LONGEST = 240  # bytes of a name that leave room for more, of the 255 that most file systems take
UMASK = os.umask(0)
os.umask(UMASK)


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path`, which takes its name only when the block ends well.

    Yields the open file. `mode` is "w" (UTF-8 text) or "wb". The parent folder is created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=name_temporary(path))
    temporary = Path(name)
    # A file's name need not be UTF-8: what is not goes through as the bytes that it is.
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    try:
        with os.fdopen(descriptor, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~UMASK)  # mkstemp makes files private; give them what open() would have given
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # of a disk that has turned read-only: the first error tells more
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk names no file
            error.filename = str(path)
        raise


def name_temporary(path: Path) -> str:
    """Return how the names of a file's temporary ones begin; eight letters follow. No user's copy is called so."""
    short = len(os.fsencode(path.name)) <= LONGEST
    return f".{path.name if short else hashlib.sha256(os.fsencode(path.name)).hexdigest()}.kdad."


def refuse_existing(path: Path, overwrite: bool, key: str = "hydra.run.dir=<folder>") -> None:
    """Raise `UserError` where a file is there already, unless `overwrite`; `key` names the way to another one."""
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already: {key} names another one, overwrite=true replaces it")


def has_content(folder: Path) -> bool:
    """Return whether a folder is there and holds anything."""
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def build_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside `path`, which takes its name only when the block ends well.

    Yields the temporary folder. A folder with content that another process put at `path` meanwhile stays. The parent
    folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o777 & ~UMASK)
        temporary.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not has_content(path):
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
