"""The contract of a detector, and everything that the papers share."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn
from torch.optim import Optimizer

from kdad.errors import UserError
from kdad.optimizers import fuse
from kdad.teacher import Level, Teacher

# image (B,3,H,W) in [0,1], label (B,), index (B,); where there are any, mask (B,1,H,W) and features, list of (B,C,h,w)
Batch = dict[str, Any]
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

    Test, predict and export all call `forward`, which takes images in [0, 1]; validation is the training loss
    on held-out normal images. Teacher features are asked for through `teacher_features` alone. A subclass passes its rule for `levels: auto` as
    `auto_levels` and builds its student in `__init__`, after this one.
    """

    cacheable = True  # whether teacher features are a function of the image file alone
    scoring: tuple[str, ...] = ()  # arguments that `forward` alone reads: they may change without training

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
        self._known: dict[int, Batch] = {}
        self.provenance: dict[str, Any] = {}  # plain values kept in every checkpoint: how to build this again

    # The contract -----------------------------------------------------------------------------------------

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars to log, of which "loss" is minimised."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Detection:
        """Images (B, 3, H, W) in [0, 1] -> `Detection`."""
        raise NotImplementedError

    def before_fit(self, batches: Iterable[Batch]) -> None:
        """Statistics of the training images before the first step, kept in buffers; not called when resuming."""

    def after_fit(self, batches: Iterable[Batch]) -> None:
        """Statistics with the weights that will be tested, kept in buffers, of validation images if there are any, else
        of training images.
        """

    def score_columns(self, image_score: Tensor) -> dict[str, Tensor]:
        """Further columns (B,) of scores.csv that follow from the raw scores (B,), such as a decision; none by default."""
        return {}

    # What is shared ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def teacher_features(self, batch: Batch) -> list[Tensor]:
        """The teacher's levels for a batch, shallow to deep, list of (B, C, h, w), without gradient.

        They come with the batch where they were cached, else from the teacher.
        """
        known = batch if "features" in batch else self._known.get(id(batch["image"]), {})
        if "features" in known:
            return list(known["features"])
        return self.teacher(self.normalise(batch["image"]))

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """A loader's batches on this module's device."""
        for batch in loader:
            yield self.trainer.precision_plugin.convert_input(move_data_to_device(batch, self.device))

    def on_fit_start(self) -> None:
        if self.trainer.ckpt_path is None:  # otherwise the checkpoint has brought its statistics
            self.before_fit(self.batches(self.trainer.datamodule.train_dataloader()))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        return self.logged(self.training_loss(batch), len(batch["image"]))["loss"]

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self.logged(self.training_loss(batch), len(batch["image"]), prefix="val_")

    def logged(self, losses: dict[str, Tensor], batch_size: int, prefix: str = "") -> dict[str, Tensor]:
        """Log the means over an epoch; `UserError` at the first value that is not finite."""
        bad = {key: value.item() for key, value in losses.items() if not torch.isfinite(value)}
        if bad:
            raise UserError(
                f"Training diverged: {', '.join(f'{prefix}{k} = {v}' for k, v in bad.items())} at step "
                f"{self.global_step} of epoch {self.current_epoch}. Lower optimizer.lr, or use trainer.precision=32-true."
            )
        for key, value in losses.items():
            self.log(
                prefix + key, value, on_step=False, on_epoch=True, prog_bar=key == "loss", batch_size=batch_size,
                sync_dist=True,
            )  # fmt: skip
        return losses

    def positions(self, score_levels: list[int] | None, count: int) -> list[int]:
        """The levels, counted from 1 as the papers do, whose maps enter the score: those given, or all of `count`."""
        every = list(range(1, count + 1))
        if score_levels is not None and (not score_levels or not set(score_levels) <= set(every)):
            raise UserError(f"model.score_levels={score_levels}: count the levels from 1 to {count}, or null for all")
        return score_levels or every

    def test_step(self, batch: Batch, batch_index: int) -> Detection:
        # `forward` takes images alone; the door finds what else is known of these very images.
        self._known = {id(batch["image"]): batch}
        try:
            return self(batch["image"])
        finally:
            self._known = {}

    predict_step = test_step

    def configure_optimizers(self) -> Optimizer:
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        return fuse(optimizer) if self.automatic_optimization else optimizer

    # A checkpoint holds what was trained; of the teacher only what is needed to recognise it.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("teacher.")}
        checkpoint["teacher"] = self.teacher.identity()
        checkpoint["kdad"] = self.provenance

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored, own = checkpoint["teacher"], self.teacher.identity()
        for key in own:
            if stored.get(key) != own[key]:
                raise UserError(
                    f"The checkpoint was trained with a teacher of {key} {stored.get(key)}, this configuration gives "
                    f"{own[key]}. Use the same backbone, weights and levels."
                )
        checkpoint["state_dict"] |= {f"teacher.{k}": v for k, v in self.teacher.state_dict().items()}
