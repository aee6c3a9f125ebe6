"""The contract of a detector, and everything that the papers share."""

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdad.errors import UserError
from kdad.functional import detect_by_tiles
from kdad.geometry import ImageSize, simplify
from kdad.speed import fuse
from kdad.teacher import Level, Teacher

if TYPE_CHECKING:
    from kdad.models.steps import Steps as Base
else:
    Base = nn.Module  # see `KDDetector.__new__`

Batch = dict[str, Any]
"""What a loader gives, by name: only `image` is sure to be there.

- `image`: float (B, 3, H, W) in [0, 1], of the data set's `image_size`, not yet normalised
- `label`: int64 (B,), 0 normal, 1 anomalous
- `index`: int64 (B,), the image's place in its part of the data set
- `mask`: bool (B, 1, H, W), True where anomalous; in the test of a data set with masks
- `roi`: bool (B, 1, H, W), True where a pixel is of interest; with `dataset.roi` alone
- `features`: the teacher's levels, a list of float (B, C, h, w), where they were cached
- `tiles`: `kdad.geometry.Tiles` of a picture that was cut; the others are then of it alone, whole, at its own size
"""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Detection(NamedTuple):
    """A detector's maps and scores for a batch: higher means more anomalous.

    `anomaly_map` is float (B, 1, H, W), of the images' size; `image_score` float (B,).
    """

    anomaly_map: Tensor
    image_score: Tensor


def keep_inside(maps: Tensor, batch: Batch) -> Tensor:
    """Return anomaly maps (B, 1, H, W), or (B, H, W), with 0 outside the batch's region of interest, if it has one."""
    if "roi" not in batch:
        return maps
    roi = batch["roi"] if maps.ndim == 4 else batch["roi"][:, 0]
    return maps * roi.to(maps)


class Normalise(nn.Module):
    """Images normalised per channel, (images - mean) / std; without statistics, the images as they are."""

    mean: Tensor  # (1, 3, 1, 1)
    std: Tensor

    def __init__(self, statistics: tuple[tuple[float, ...], tuple[float, ...]] | None):
        super().__init__()
        mean, std = statistics or ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class KDDetector(Base):
    """Base of all detectors: a subclass defines `training_loss` and `detect` of a batch, this class does the rest.

    Test, predict and export all come to `detect`; validation is the training loss on held-out normal images. Teacher
    features are asked for through `teacher_features` alone. A subclass passes its rule for `levels: auto` as
    `auto_levels`, a function from a network's name to its levels such as `at_strides` makes, and builds its student in
    `__init__`, after this one.

    The others come from the configuration. `backbone` makes the `Teacher` of `levels`, `auto` and `image_size`;
    `optimizer` the optimiser of a list of parameters. `levels` is "auto", or a list of indices and module paths,
    `image_size` the pixels of images: a number, or (height, width). `normalisation` is what they are normalised by:
    "auto", the teacher's own statistics, "imagenet" or "none". `name` is what results call the detector.
    Raises `UserError` for another normalisation, and for what `Teacher` refuses.
    """

    cacheable = True  # whether teacher features are a function of the image file alone
    scoring: tuple[str, ...] = ()  # arguments that `detect` alone reads: they may change without training
    differentiates = False  # whether `detect` takes a gradient
    validates_map = False  # whether validation also logs the mean of the maps, val_map, to choose an epoch by

    def __new__(cls, *arguments: Any, **named: Any) -> "KDDetector":
        """Return a LightningModule wherever Lightning is loaded, else a plain module, which nothing there can train.

        Importing Lightning takes half as long as importing torch: who applies a detector need not wait for it.
        """
        if "pytorch_lightning" in sys.modules:
            from kdad.models.steps import make_trainable

            return super().__new__(make_trainable(cls))  # type: ignore[arg-type]  # mypy doubts that classes hash
        return super().__new__(cls)

    def __init__(
        self,
        auto_levels: Callable[[str], list[Level]],
        backbone: Callable[..., Teacher],
        optimizer: Callable[..., Optimizer],
        name: str = "",
        levels: list[Level] | str = "auto",
        image_size: ImageSize = 256,
        normalisation: str = "auto",
    ):
        super().__init__()
        self.name = name or type(self).__name__.lower()
        self.image_size = simplify(image_size)
        self.optimizer = optimizer
        self.scheduler: Callable[[Optimizer], LRScheduler] | None = None  # of the learning rate, by epochs
        self.teacher = backbone(levels=levels, auto=auto_levels, image_size=self.image_size)
        known = {"auto": (self.teacher.mean, self.teacher.std), "imagenet": IMAGENET, "none": None}
        if normalisation not in known:
            raise UserError(f"normalisation={normalisation}: give one of {', '.join(known)}")
        self.normalise = Normalise(known[normalisation])
        self.provenance: dict[str, Any] = {}  # plain values kept in every checkpoint: how to build this again

    # The contract -----------------------------------------------------------------------------------------

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch by name, each a scalar to log; the one called "loss" is minimised.

        The batch is of normal images, `image` (B, 3, H, W) in [0, 1], to train or to validate on; see `Batch`.
        """
        raise NotImplementedError

    def detect(self, batch: Batch) -> Detection:
        """Return the maps (B, 1, H, W) and scores (B,) of a batch; only its key "image" is sure to be there.

        There is no other way to them: testing, predicting and export all come here. Outside a region of interest,
        "roi", maps are 0, see `keep_inside`, and no score comes from there.
        """
        raise NotImplementedError

    def before_fit(self, batches: Iterable[Batch]) -> None:
        """Compute statistics of the training images before the first step, and keep them in buffers.

        `batches` is one pass over the training images, each a `Batch` on this module's device. Not called when a fit
        goes on from a checkpoint, which has brought them.
        """

    def after_fit(self, batches: Iterable[Batch]) -> None:
        """Compute statistics with the weights that will be tested, and keep them in buffers.

        `batches` is one pass over the validation images if there are any, else over the training images.
        """

    # What is shared ---------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.normalise.mean.device

    def forward(self, images: Tensor) -> Detection:
        """Return maps (B, 1, H, W) and scores of images (B, 3, H, W) in [0, 1], without labels, masks or features."""
        return self.detect({"image": images})

    def judge(self, batch: Batch) -> Detection:
        """Return maps and scores of whole pictures: of one that was cut, those of its tiles, put together.

        Its map is then (1, 1, H, W), of the picture's own size, else as `detect` gives it.
        """
        if "tiles" not in batch:
            return self.detect(batch)
        joined, score = detect_by_tiles(self.detect, batch["tiles"], self.normalise.mean.dtype)
        return Detection(keep_inside(joined, batch), score)

    @torch.no_grad()
    def teacher_features(self, batch: Batch) -> list[Tensor]:
        """Return the teacher's levels for a batch, shallow to deep, list of (B, C, h, w), without gradient.

        They come with the batch where they were cached, else from the teacher: ask for those of changed images by a
        batch of these images alone, `{"image": noisy}`.
        """
        if "features" in batch:
            return list(batch["features"])
        return self.teacher(self.normalise(batch["image"]))

    def choose_levels(self, levels: list[int] | None, count: int, key: str = "score_levels") -> list[int]:
        """Choose the levels that a model's `key` names, counted from 1 as the papers do: those given, or all.

        `count` is how many there are. Returns the levels, counted from 1. Raises `UserError` where a level is not among
        them.
        """
        every = list(range(1, count + 1))
        if levels is not None and (not levels or not set(levels) <= set(every)):
            raise UserError(f"model.{key}={levels}: count the levels from 1 to {count}, or null for all")
        return levels or every

    def configure_optimizers(self) -> Any:
        """Return the optimiser of what is trained, and its schedule if there is one, as Lightning takes them."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if getattr(self, "automatic_optimization", True):
            fuse(optimizer)
        if self.scheduler is None:
            return optimizer
        # The name is what a schedule that waits for a plateau looks at.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "monitor": "loss"}}

    # A checkpoint holds what was trained; of the teacher only what is needed to recognise it.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("teacher.")}
        checkpoint["teacher"] = self.teacher.identify()
        checkpoint["kdad"] = self.provenance

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored, own = checkpoint["teacher"], self.teacher.identify()
        for key in own:
            if stored.get(key) != own[key]:
                raise UserError(
                    f"The checkpoint was trained with a teacher of {key} {stored.get(key)}, this configuration gives "
                    f"{own[key]}. Use the same backbone, weights and levels."
                )
        checkpoint["state_dict"] |= {f"teacher.{k}": v for k, v in self.teacher.state_dict().items()}
