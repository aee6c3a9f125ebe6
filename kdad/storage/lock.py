"""One job at a time in a folder."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kdad.errors import UserError

log = logging.getLogger(__name__)
LOCK = ".lock"


@contextmanager
def hold_folder(folder: Path, needed: bool = True) -> Iterator[None]:
    """Hold `folder`, which is made if need be, so that no other job works in it.

    The operating system lets go of it when the process ends, however it ends; the empty file .lock stays. `needed` is
    false in those processes of a job that leave the lock to its first. Raises `UserError` if another job, of this
    process or any, holds the folder.
    """
    if not needed:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder}: another job is at work in this folder. Wait for it, or give hydra.run.dir, or with -m "
            "hydra.sweep.dir, another one"
        ) from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{folder / LOCK} is a link, and kdad locks a file of its own. Remove it") from None
    except NotImplementedError as error:  # a file system without locks
        log.warning("%s cannot be locked (%s): start no other job there", folder, error)
    try:
        yield
    finally:
        lock.release()
