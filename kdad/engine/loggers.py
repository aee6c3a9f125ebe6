"""Lightning's loggers: making one, logging configuration and results, closing it."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from omegaconf import DictConfig
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from kdad.engine.record import MEAN, RATES, SEVEN
from kdad.engine.run_folder import RunFolder
from kdad.engine.signals import raise_end
from kdad.errors import UserError
from kdad.metrics import Outcome
from kdad.settings.create import create

log = logging.getLogger(__name__)
BINS = 32  # of the histograms of scores
NAME_LENGTH, TAG_LENGTH = 128, 64  # of W&B
# What Lightning and kdad call of a logger during and after a fit
GUARDED = (
    "log_metrics",
    "log_hyperparams",
    "log_image",
    "log_table",
    "log_graph",
    "save",
    "finalize",
    "after_save_checkpoint",
)
# Columns of the table that each run leaves, for one table over all runs.
SUMMARY = (
    "model", "dataset", "category", "backbone", "weights_fingerprint", "image_size", "seed", "epochs", "n_train",
    "n_test", *SEVEN, MEAN, *RATES, "loss", "val_loss", "fit_seconds", "test_seconds",
)  # fmt: skip


@contextmanager
def open_logger(logger: Logger | None, config: dict[str, Any], problems: list[str]) -> Iterator[None]:
    """Log the configuration, and end the logger's run when the block ends: one run per job of a sweep.

    A failure of the logger is added to `problems`.
    """
    if logger is None:
        yield
        return
    tolerate(logger, problems)
    if not isinstance(logger, CSVLogger):  # beside its CSV the run folder has config.yaml already
        logger.log_hyperparams(config)
    status = "failed"
    try:
        yield
        status = "success"
    finally:
        logger.finalize(status)
        with note_failure(problems):
            experiment = getattr(logger, "experiment", None)
            if experiment is not None and hasattr(experiment, "finish"):
                experiment.finish(exit_code=int(status == "failed"))  # else W&B's run goes on into the next job


def tolerate(logger: Logger, problems: list[str]) -> None:
    """Let a logger fail without ending the job: each kind of failure is warned of once and added to `problems`."""

    def guard(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **keywords: Any) -> Any:
            with note_failure(problems):
                return method(*args, **keywords)

        return call

    for name in GUARDED:
        if method := getattr(logger, name, None):
            setattr(logger, name, guard(method))


@contextmanager
def note_failure(problems: list[str]) -> Iterator[None]:
    """Go on after an error in the block: it is warned of once and added to `problems`."""
    try:
        yield
    except Exception as error:
        raise_end(error)
        said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        if said not in problems:
            problems.append(said)
            log.warning("the logger has failed, the job goes on without it: %s", said)


def shorten(text: str, length: int) -> str:
    """Return a name that W&B takes: at most so many characters, the end of a longer one replaced by its hash."""
    if len(text) <= length:
        return text
    return f"{text[: length - 9]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def make_logger(cfg: DictConfig, folder: RunFolder, group: str | None) -> Logger | None:
    """Return the configured logger, writing below `folder`; None for none. `group`: what the jobs of a sweep share.

    Raises `UserError` where W&B does not let it sign in.
    """
    if not cfg.logger:
        return None
    more: dict[str, Any] = {"save_dir": str(folder)}
    if cfg.logger.get("version"):
        more["version"] = choose_version(folder.path, cfg.logger.version)
    if "group" in cfg.logger:
        more["group"] = shorten(cfg.logger.group or group or f"{cfg.model.name}_{cfg.dataset.name}", NAME_LENGTH)
    if "tags" in cfg.logger:
        more["tags"] = [
            shorten(str(tag), TAG_LENGTH) for tag in cfg.logger.tags if tag not in (None, "")
        ]  # a digit as category is a number to YAML
    if "project" in cfg.logger and cfg.logger.get("name"):
        more["name"] = shorten(str(cfg.logger.name), NAME_LENGTH)
    logger = create(cfg.logger, **more)
    if isinstance(logger, WandbLogger):
        try:
            logger.experiment  # noqa: B018 - signs in, before any training
        except Exception as error:
            raise UserError(
                f"logger=wandb: {str(error).strip()} - logger.offline=true needs neither account nor network, and "
                "`wandb sync` sends the run later"
            ) from error
    return logger


def choose_version(folder: Path, name: str) -> str:
    """Return the first name, of log, log_2 and so on, that no earlier log has: a resumed run keeps them."""
    taken = [p.name for p in folder.glob(f"{name}*")]
    return next(v for v in (name, *(f"{name}_{i}" for i in range(2, len(taken) + 3))) if v not in taken)


def log_test(logger: Logger | None, results: dict[str, Any], outcome: Outcome, pictures: Path) -> None:
    """Log what a test has measured: metrics, and where the logger takes them histograms of scores, and pictures.

    `results` is what results.json holds, whose metrics may be means over epochs; `pictures` a folder.
    """
    if not logger:
        return
    names = [*RATES, *(name for metric in outcome.metrics for name in (metric, f"{metric}_std"))]
    told: dict[str, Any] = {name: results[name] for name in names if isinstance(results.get(name), float)}
    told |= average_seven(results)
    scores, labels = outcome.rows.score, outcome.rows.label
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


def summarise(logger: Logger | None, results: dict[str, Any]) -> None:
    """Log a table "summary" of one row, where the logger takes tables."""
    if logger is not None and hasattr(logger, "log_table"):
        row = results | average_seven(results)
        logger.log_table("summary", columns=list(SUMMARY), data=[[row.get(key) for key in SUMMARY]])


def average_seven(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean of the seven metrics by its name, as reports have it; nothing where one is missing."""
    values = [value for name in SEVEN if isinstance(value := results.get(name), float)]
    return {MEAN: fmean(values)} if len(values) == len(SEVEN) else {}
