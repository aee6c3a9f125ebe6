"""Lightning's loggers: made for a job, told the configuration and the outcome, closed after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger


@contextmanager
def opened(logger: Logger | bool, config: dict[str, Any]) -> Iterator[Logger | bool]:
    """A logger that knows the configuration, and whose run ends with the block: one run per job of a sweep."""
    if not logger:
        yield logger
        return
    if not isinstance(logger, CSVLogger):  # beside its CSV the run folder has config.yaml already
        logger.log_hyperparams(config)
    status = "failed"
    try:
        yield logger
        status = "success"
    finally:
        logger.finalize(status)
        if hasattr(logger.experiment, "finish"):  # W&B's run would otherwise go on into the next job
            logger.experiment.finish(exit_code=int(status == "failed"))


def free_version(folder: Path, name: str) -> str:
    """`log`, or `log_2` and so on: a resumed run keeps the earlier log."""
    taken = [p.name for p in folder.glob(f"{name}*")]
    return next(v for v in (name, *(f"{name}_{i}" for i in range(2, len(taken) + 3))) if v not in taken)


def record(logger: Logger | None, metrics: dict[str, Any], pictures: Path) -> None:
    """Log the metrics of a test, and its pictures where the logger takes any."""
    if not logger:
        return
    logger.log_metrics({key: value for key, value in metrics.items() if isinstance(value, float)})
    files = sorted(pictures.glob("*.png"))
    if hasattr(logger, "log_image") and files:
        logger.log_image("maps", [str(f) for f in files], caption=[f.stem for f in files])
    elif isinstance(logger, TensorBoardLogger):
        for file in files:
            logger.experiment.add_image(f"maps/{file.stem}", np.asarray(Image.open(file)), dataformats="HWC")
