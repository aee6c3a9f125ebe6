"""What of a configuration depends on the machine: a GPU of its own for each process of a launcher, the precision."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEV = Path("/dev")
_taken: list[FileLock] = []  # let go of by the operating system when the process ends


def settle_machine(trainer: Any, several: bool) -> None:
    """Take a GPU where `several` processes share out a sweep's jobs, and replace trainer.precision=auto by a choice.

    `trainer` is that part of the configuration, changed in place, so that results, checkpoints and hashes have what was
    chosen.
    """
    if several:
        take_device(trainer)
    if trainer.get("precision") == "auto":
        from kdad.engine.precision import choose_precision  # it brings torch with it

        trainer.precision = choose_precision(str(trainer.get("accelerator")))


def list_devices() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without waking one of them."""
    if (named := os.environ.get(VISIBLE)) is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(i) for i in range(sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in DEV.glob("nvidia*")))]


def take_device(trainer: Any) -> str | None:
    """Leave this process one GPU, which no other process of this user's has taken so; return it.

    None where there is no choice, or the job asks for several or for none. Without it each process would work on the
    first. It must be called before CUDA starts, and holds for the process, whose later jobs find one GPU.
    """
    devices = list_devices()
    if len(devices) < 2 or trainer.get("devices") not in (1, "auto") or trainer.get("accelerator") == "cpu":
        return None
    folder = Path(tempfile.gettempdir()) / f"kdad-gpus-{os.getuid() if hasattr(os, 'getuid') else 0}"
    folder.mkdir(exist_ok=True)
    for device in devices:
        lock = FileLock(folder / f"{device}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        _taken.append(lock)
        os.environ[VISIBLE] = device
        return device
    return None  # more processes than GPUs: Lightning's choice
