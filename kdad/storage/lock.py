"""One job at a time in a folder."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdad.errors import UserError

log = logging.getLogger(__name__)


@contextmanager
def hold_folder(folder: Path, needed: bool = True) -> Iterator[None]:
    """Hold `folder`, which is made if need be, so that no other job works in it.

    The operating system lets go of it when the process ends, however it ends. `needed` is false in those processes of
    a job that leave the lock to its first. Raises `UserError` if another job, of this process or any, holds the folder.
    """
    if not needed:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    held = False
    while not held:
        file = path.open("w")  # closed where the lock is let go of
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(
                f"{folder}: another job is at work in this folder. Wait for it, or give hydra.run.dir, or with -m "
                "hydra.sweep.dir, another one"
            ) from None
        except OSError as error:  # a file system without locks
            log.warning("%s cannot be locked (%s): start no other job there", folder, error)
        # The one who held it may have removed the file meanwhile, and another one have made it anew.
        held = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
        if not held:
            file.close()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
