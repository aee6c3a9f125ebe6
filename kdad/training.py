"""What accompanies a fit: seeds by epoch, checkpoints, and the choice of the weights that are tested."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from kdad.errors import UserError

MONITORS = (None, "val_loss")  # both come from normal training images


class Training(pl.Callback):
    """Writes `last.ckpt` to resume from, and `tested.ckpt` with the weights and statistics that are tested.

    `last.ckpt` is written at the end of an epoch, at most once in `checkpoint_seconds`, and after the last epoch.
    With a `best` checkpoint callback its weights are the ones tested, otherwise the last epoch's. Random numbers
    drawn from torch in an epoch depend on (seed, epoch) alone, so that a resumed run repeats them.
    """

    def __init__(self, folder: Path, seed: int, checkpoint_seconds: float, best: ModelCheckpoint | None):
        self.folder, self.seed, self.checkpoint_seconds, self.best = folder, seed, checkpoint_seconds, best
        self.saved = time.monotonic()
        self.tested_epoch: int | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        final = trainer.current_epoch + 1 == trainer.max_epochs
        # Every process must take part in saving, so that the first one's clock decides for all.
        if trainer.strategy.broadcast(final or time.monotonic() - self.saved >= self.checkpoint_seconds):
            trainer.save_checkpoint(self.folder / "last.ckpt")
            self.saved = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, detector: Any) -> None:
        self.tested_epoch = trainer.current_epoch
        if self.best is not None and self.best.best_model_path:
            checkpoint = load_checkpoint(Path(self.best.best_model_path))
            detector.on_load_checkpoint(checkpoint)
            detector.load_state_dict(checkpoint["state_dict"])
            self.tested_epoch = checkpoint["epoch"] + 1
        data = trainer.datamodule
        detector.after_fit(detector.batches(data.val_dataloader() or data.train_dataloader()))
        trainer.save_checkpoint(self.folder / "tested.ckpt", weights_only=True)


def best_checkpoint(folder: Path, monitor: str | None, n_val: int) -> ModelCheckpoint | None:
    """The callback that keeps the weights of the lowest validation loss; None where the last epoch's are tested."""
    if monitor not in MONITORS:
        raise UserError(f"monitor={monitor}: only training images may choose a checkpoint: give val_loss or null")
    if monitor is None:
        return None
    if not n_val:
        raise UserError(f"monitor={monitor} needs validation images: set val_fraction above 0 (found {n_val} images)")
    return ModelCheckpoint(folder, "best", monitor=monitor, save_weights_only=True, enable_version_counter=False)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, read without running code. Raises `UserError` if it is missing, damaged or no such file."""
    if not path.is_file():
        raise UserError(f"ckpt_path={path}: no such file (looked for {path.absolute()})")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"ckpt_path={path}: cannot be read as a checkpoint of plain values ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200]}). Files that would run code are refused."
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "teacher", "kdad"} <= checkpoint.keys():
        raise UserError(f"ckpt_path={path}: not a checkpoint written by kdad")
    return checkpoint
