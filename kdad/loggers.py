"""Lightning's loggers: made for a job, told the configuration and the outcome, closed after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

BINS = 32  # of the histograms of scores
# Columns of the table that each run leaves, for one table over all runs.
SUMMARY = (
    "model", "dataset", "category", "backbone", "weights_fingerprint", "image_size", "seed", "epochs", "n_train",
    "n_test", "image_auroc", "pixel_auroc", "pro", "loss", "val_loss", "fit_seconds", "test_seconds",
)  # fmt: skip


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


def record(
    logger: Logger | None, metrics: dict[str, Any], scores: np.ndarray, labels: np.ndarray, pictures: Path
) -> None:
    """Log the metrics of a test; where the logger takes them, pictures and histograms of the scores of either label."""
    if not logger:
        return
    told: dict[str, Any] = {key: value for key, value in metrics.items() if isinstance(value, float)}
    parts = {"scores_normal": scores[labels == 0], "scores_anomalous": scores[labels == 1]}
    parts = {name: part for name, part in parts.items() if len(part)}
    if isinstance(logger, WandbLogger):
        from wandb import Histogram  # it takes a second to import, which other loggers need not wait for

        told |= {name: Histogram(part, num_bins=BINS) for name, part in parts.items()}
    logger.log_metrics(told)
    if isinstance(logger, TensorBoardLogger):
        for name, part in parts.items():
            logger.experiment.add_histogram(name, part, bins=BINS)
    files = sorted(pictures.glob("*.png"))
    if hasattr(logger, "log_image") and files:
        logger.log_image("maps", [str(f) for f in files], caption=[f.stem for f in files])
    elif isinstance(logger, TensorBoardLogger):
        for file in files:
            logger.experiment.add_image(f"maps/{file.stem}", np.asarray(Image.open(file)), dataformats="HWC")


def summarise(logger: Logger | bool, results: dict[str, Any]) -> None:
    """Leave a table "summary" of one row, where the logger takes tables."""
    if hasattr(logger, "log_table"):
        logger.log_table("summary", columns=list(SUMMARY), data=[[results.get(key) for key in SUMMARY]])
