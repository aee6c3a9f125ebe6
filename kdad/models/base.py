"""The contract of a detector, and everything that the papers share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdad.errors import UserError
from kdad.teacher import Level, Teacher

Batch = dict[str, Tensor]  # image (B,3,H,W) in [0,1], label (B,), index (B,), mask (B,1,H,W) where there are any
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Detection(NamedTuple):
    """What a detector says of a batch: higher means more anomalous."""

    anomaly_map: Tensor  # (B, 1, H, W)
    image_score: Tensor  # (B,)


class Normalise(nn.Module):
    """(images - mean) / std per channel; with no statistics, the images as they are."""

    def __init__(self, statistics: tuple[tuple[float, ...], tuple[float, ...]] | None):
        super().__init__()
        mean, std = statistics or ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class KDDetector(pl.LightningModule):
    """A detector is `training_loss` and `forward`; this class is the rest.

    Validation, test, predict and export all call `forward`, which takes images in [0, 1]. Teacher features
    are asked for through `teacher_features` alone. A subclass passes its rule for `levels: auto` as
    `auto_levels` and builds its student in `__init__`, after this one.
    """

    def __init__(
        self,
        auto_levels: Callable[[str], list[Level]],
        backbone: Callable[..., Teacher],
        optimizer: Callable[..., Optimizer],
        name: str = "",
        levels: list[Level] | str = "auto",
        image_size: int = 256,
        normalisation: str = "auto",
    ):
        super().__init__()
        self.name = name or type(self).__name__.lower()
        self.image_size = image_size
        self.optimizer = optimizer
        self.teacher = backbone(levels=levels, auto=auto_levels, image_size=image_size)
        known = {"auto": (self.teacher.mean, self.teacher.std), "imagenet": IMAGENET, "none": None}
        if normalisation not in known:
            raise UserError(f"normalisation={normalisation}: give one of {', '.join(known)}")
        self.normalise = Normalise(known[normalisation])

    # The contract -----------------------------------------------------------------------------------------

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars to log, of which "loss" is minimised."""
        raise UserError(f"{type(self).__name__} defines no training_loss")

    def forward(self, images: Tensor) -> Detection:
        """Images (B, 3, H, W) in [0, 1] -> `Detection`."""
        raise UserError(f"{type(self).__name__} defines no forward")

    # What is shared ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def teacher_features(self, batch: Batch) -> list[Tensor]:
        """The teacher's levels for a batch, shallow to deep, list of (B, C, h, w), without gradient."""
        return self.teacher(self.normalise(batch["image"]))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        losses = self.training_loss(batch)
        bad = [key for key, value in losses.items() if not torch.isfinite(value)]
        if bad:
            raise UserError(
                f"Training diverged: {', '.join(f'{k} = {losses[k].item()}' for k in bad)} at step "
                f"{self.global_step} of epoch {self.current_epoch}. Lower optimizer.lr, or use trainer.precision=32-true."
            )
        for key, value in losses.items():
            self.log(key, value, on_step=False, on_epoch=True, prog_bar=key == "loss", batch_size=len(batch["image"]))
        return losses["loss"]

    def test_step(self, batch: Batch, batch_index: int) -> Detection:
        return self(batch["image"])

    predict_step = test_step

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer([p for p in self.parameters() if p.requires_grad])

    # A checkpoint holds what was trained; of the teacher only what is needed to recognise it.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("teacher.")}
        checkpoint["teacher"] = {"backbone": self.teacher.tag, "fingerprint": self.teacher.fingerprint}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored, own = checkpoint["teacher"], self.teacher
        if (stored["backbone"], stored["fingerprint"]) != (own.tag, own.fingerprint):
            raise UserError(
                f"The checkpoint was trained with teacher {stored['backbone']} of fingerprint {stored['fingerprint']}, "
                f"but backbone= gives {own.tag} of fingerprint {own.fingerprint}. Use the same backbone, levels and "
                "weights."
            )
        checkpoint["state_dict"] |= {f"teacher.{k}": v for k, v in own.state_dict().items()}
