"""What makes a detector a LightningModule: its steps of training, validation and test."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

from kdad.errors import UserError
from kdad.speed import release_memory

FIRST = 2  # steps, after which the optimiser's state and kernels' own memory lie among what each step takes anew


class Steps(pl.LightningModule):
    """A detector's steps for Lightning: its loss to train and to validate on, its maps and scores to test.

    Every `KDDetector` has them wherever Lightning is loaded, and may define its own, such as for several optimisers.
    """

    # Of the detector
    training_loss: Callable[[dict[str, Any]], dict[str, Tensor]]
    detect: Callable[[dict[str, Any]], Any]
    judge: Callable[[dict[str, Any]], Any]
    before_fit: Callable[[Iterable[dict[str, Any]]], None]
    validates_map: bool

    def move_batches(self, loader: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Move a loader's batches to this module's device, one after the other."""
        for batch in loader:
            yield self.trainer.precision_plugin.convert_input(move_data_to_device(batch, self.device))

    def on_fit_start(self) -> None:
        if self.trainer.ckpt_path is None:  # otherwise the checkpoint has brought its statistics
            data = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it, its class does not name it
            self.before_fit(self.move_batches(data.train_dataloader()))

    def training_step(self, batch: dict[str, Any], batch_index: int) -> Tensor:
        return self.log_losses(self.training_loss(batch), len(batch["image"]))["loss"]

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        if self.global_step == FIRST:
            release_memory()

    def on_train_epoch_end(self) -> None:
        release_memory()

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        losses = self.training_loss(batch)
        if self.validates_map:
            losses = losses | {"map": self.detect(batch).anomaly_map.mean()}
        self.log_losses(losses, len(batch["image"]), prefix="val_")

    def log_losses(self, losses: dict[str, Tensor], batch_size: int, prefix: str = "") -> dict[str, Tensor]:
        """Log the means of scalar losses over an epoch. Returns them. Raises `UserError` where one is not finite."""
        bad = {key: value.item() for key, value in losses.items() if not torch.isfinite(value)}
        if bad:
            raise UserError(
                f"Training diverged: {', '.join(f'{prefix}{k} = {v}' for k, v in bad.items())} at step "
                f"{self.global_step} of epoch {self.current_epoch}. "
                "Lower optimizer.lr, or use trainer.precision=32-true."
            )
        for key, value in losses.items():
            self.log(
                prefix + key, value, on_step=False, on_epoch=True, prog_bar=key == "loss", batch_size=batch_size,
                sync_dist=True,
            )  # fmt: skip
        return losses

    # Lightning hands on whatever this returns, to callbacks and to `predict`.
    def test_step(self, batch: dict[str, Any], batch_index: int) -> Any:
        return self.judge(batch)

    predict_step = test_step


@cache
def make_trainable(detector: type) -> type:
    """Return the class of a detector with `Steps`, and so a LightningModule. It goes by the same name."""
    if issubclass(detector, Steps):
        return detector
    names = {"__module__": detector.__module__, "__qualname__": detector.__qualname__, "__doc__": detector.__doc__}
    return type(detector.__name__, (detector, Steps), names)
