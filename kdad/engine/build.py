"""From a configuration to objects: data, detector, trainer."""

import logging
import platform
import warnings
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import timm
import torch
from omegaconf import DictConfig, ListConfig
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger

import kdad
from kdad.data.base import AnomalyDataModule
from kdad.data.corruption import corrupt_split
from kdad.data.intensity import adopt_rule
from kdad.data.union import Union
from kdad.engine.bar import ProgressBar
from kdad.engine.categories import create_set
from kdad.engine.combinations import check_unified
from kdad.engine.early import add_weights
from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from kdad.models.base import KDDetector
from kdad.settings.create import create
from kdad.speed import lay_out, use_machine
from kdad.storage.cache import ArrayStore


def build(
    cfg: DictConfig, trains: bool = True, rule: Mapping[str, Any] | None = None
) -> tuple[AnomalyDataModule, KDDetector]:
    """Build the data module, with all images decoded, and the detector; unless it `trains`, of test images alone.

    `rule` is that of a checkpoint, by which values became 8 bits in training: its window is not found anew. Raises one
    `UserError` for all that is missing: whether weights can be had is said in one go with what is wrong with the data,
    without fetching them for nothing.
    """
    use_machine(cfg.get("speed", "auto"))
    with add_weights(cfg):
        data = list_data(cfg, trains)
    detector = build_detector(cfg)
    data.rule = adopt_rule(data.rule, rule)
    data.setup()
    if (corruption := cfg.get("corruption", "none")) != "none":
        corrupt_split(data.splits["test"], corruption, cfg.severity, cfg.seed)
    return data, detector


def list_data(cfg: DictConfig, trains: bool = True) -> AnomalyDataModule:
    """Return the data module, its files listed and checked but not decoded. Raises `UserError`.

    Unless it `trains`, there may be no training images.
    """
    data = create_data(cfg)
    data.trains = trains
    data.store = ArrayStore(**cfg.cache)
    data.check()
    return data


def create_data(cfg: DictConfig) -> AnomalyDataModule:
    """Create the data module of the configuration's category, or the union of those of its categories.

    Raises `UserError` where there are several without `unified`, or none with it.
    """
    several = isinstance(cfg.category, ListConfig)
    if not cfg.get("unified"):
        if several:
            raise UserError(
                f"category=[{','.join(map(str, cfg.category))}]: a detector is trained and tested on one category. "
                "Name one; kdad run takes several, one after the other, or with unified=true one detector for all"
            )
        return create_set(cfg)
    check_unified(cfg.unified, cfg.category)
    names = cfg.category if several else [cfg.category]
    return Union([create_set(cfg, category=str(name)) for name in names])


def fingerprint_data(cfg: DictConfig) -> str | None:
    """Return the fingerprint of the data as they are now, without any warning; None where they cannot be listed."""
    log, level = logging.getLogger("kdad.data"), logging.getLogger("kdad.data").level
    log.setLevel(logging.ERROR)
    try:
        return list_data(cfg).fingerprint
    except UserError:  # the run says what is wrong, if there is to be one
        return None
    finally:
        log.setLevel(level)


def build_detector(cfg: DictConfig) -> KDDetector:
    """Return the untrained detector, its weights drawn by the configuration's seed. Raises `UserError`."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    detector = create(
        cfg.model,
        backbone=create(cfg.backbone),
        optimizer=create(cfg.optimizer),
        levels=cfg.levels,
        image_size=cfg.image_size,
        normalisation=cfg.normalisation,
    )
    detector.validates_map = cfg.get("monitor") == "val_map"
    if cfg.get("scheduler"):
        detector.scheduler = create(cfg.scheduler)
    if cfg.get("compile"):
        for network in detector.children():
            if any(p.requires_grad for p in network.parameters()):
                network.compile()  # in place: parameters keep their names
    lay_out(detector)
    return detector


def make_trainer(
    cfg: DictConfig, folder: RunFolder, data: AnomalyDataModule, logger: Logger | None, *callbacks: pl.Callback
) -> pl.Trainer:
    """Make Lightning's trainer for a run folder, and silence warnings that do not concern kdad."""
    quieten()
    bar = [] if cfg.trainer.get("enable_progress_bar") is False else [ProgressBar()]
    return create(
        cfg.trainer,
        default_root_dir=str(folder),
        logger=logger or False,
        callbacks=[*callbacks, *bar],
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        limit_val_batches=1.0 if data.val_samples else 0,
    )


def quieten() -> None:
    """Silence Lightning's notices, and its warnings that do not apply here."""
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The teacher is in eval mode, images are in memory, and a resumed log goes to a folder of its own.
    remarks = ("does not have many workers", r"module\(s\) in eval mode", "LeafSpec", "num_workers")
    for remark in (*remarks, "exists and is not empty"):
        warnings.filterwarnings("ignore", message=f".*{remark}")


def describe_versions() -> str:
    """Return the versions of what a result depends on, as one line."""
    found = {
        "kdad": kdad.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "pytorch-lightning": pl.__version__,
    }
    return ", ".join(f"{name} {version}" for name, version in found.items())
