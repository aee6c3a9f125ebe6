"""MKD: multiresolution knowledge distillation.

Salehi, Sadjadi, Baselizadeh, Rohban and Rabiee, "Multiresolution Knowledge Distillation for Anomaly Detection",
CVPR 2021.

| Equation, section | function | as printed / variant / deviation |
|---|---|---|
| Eq. (1), Sec. 3.1 | value_losses | as printed |
| Eq. (2), Sec. 3.1 | - | a worked example of why directions matter; it computes nothing of the method |
| Eq. (3), Sec. 3.1 | direction_losses | as printed for vectors longer than 0.001; see there for others |
| Eq. (4), Sec. 3.1 | total_loss | as printed; variants `weight: <number>`, the code's, `loss: val` and `loss: dir` |
| Eq. (5), Sec. 3.1 | input_gradient | as printed, through the cloner; variant `gradient_through_teacher`, the code's |
| Eq. (6), Sec. 3.1 | localization_map | as printed |

Readings where the paper is short. Lambda is mean L_val / mean L_dir of the untrained cloner over the training set.
Three signed channels of Eq. (5) become one as the sum of their magnitudes, as in the released code. L_total of
Eq. (5) is that of all critical points; `saliency_levels` chooses those of the map, `score_levels` those of the image
score ([2, 3, 4] are the released code's, of both). A 3x3 ellipse is the plus. Fig. 3 drops points from the losses
(`critical_points`), not from the cloner. SmoothGrad averages signed gradients. An "equal" cloner (Fig. 4) has VGG-16's
plan with the teacher's channels.
"""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vgg import VGG
from torch import Tensor, nn

from kdad.errors import UserError
from kdad.functional import at_least_float32, gaussian_blur
from kdad.geometry import ImageSize
from kdad.models.base import Batch, Detection, KDDetector, keep_inside
from kdad.networks.cloner import NORMS, SIZES, Cloner, check_strides, guided_relu
from kdad.teacher import Level, Teacher, at_strides, build_network
from kdad.teacher.pyramid import make_ramp

STRIDES = (4, 8, 16, 32)  # of the critical points, a VGG's last four max-pools
SHORTEST = 1e-3  # length below which vectorised activations have no direction
SMOOTHGRAD_SAMPLES = 50  # released code
SMOOTHGRAD_NOISE = 0.05  # standard deviation for images in [0, 1]; no value in the paper, next to nothing in the code
CLIPPED_ABOVE = 0.99  # released code: the quantile that per-image scaling maps to 1


def choose_last_pools(name: str) -> list[Level]:
    """Choose the levels for `levels: auto`: a VGG's last four max-pools, elsewhere the levels at their strides.

    Source: Sec. 3.2.
    """
    network = build_network(name, meta=True)
    if not isinstance(network, VGG):
        return at_strides(*STRIDES)(name)
    pools = [child for child, module in network.features.named_children() if isinstance(module, nn.MaxPool2d)]
    return [f"features.{child}" for child in pools[-len(STRIDES) :]]


def keep_features(batch: Batch, *pyramids: list[Tensor]) -> tuple[list[Tensor], ...]:
    """Return pyramids of features, lists of (B, C, h, w), 0 at positions with nothing of the region of interest.

    Without such a region they stay as they are.
    """
    if "roi" not in batch:
        return pyramids
    roi = batch["roi"].to(batch["image"])
    return tuple([f * F.adaptive_max_pool2d(roi, f.shape[2:]).to(f) for f in pyramid] for pyramid in pyramids)


def value_losses(teacher_features: list[Tensor], student_features: list[Tensor]) -> Tensor:
    """Eq. (1), Sec. 3.1: return the mean squared difference over neurons, per level and image: (levels, B)."""
    pairs = zip(teacher_features, student_features, strict=True)
    return torch.stack([(at_least_float32(t) - at_least_float32(s)).square().mean(dim=(1, 2, 3)) for t, s in pairs])


def direction_losses(teacher_features: list[Tensor], student_features: list[Tensor]) -> Tensor:
    """Eq. (3), Sec. 3.1: return 1 - cosine of whole levels, each one vector, per level and image: (levels, B).

    A length below `SHORTEST` counts as that, so that a zero vector is at 1 from everything and no gradient
    exceeds 1 / `SHORTEST`; without that it would grow without bound as activations die.
    """
    return torch.stack([1 - _cosine(t, s) for t, s in zip(teacher_features, student_features, strict=True)])


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    a, b = (at_least_float32(x).flatten(1) for x in (a, b))
    lengths = [torch.linalg.vector_norm(x, dim=1).clamp_min(SHORTEST) for x in (a, b)]
    return (a * b).sum(dim=1) / (lengths[0] * lengths[1])


def total_loss(value: Tensor, direction: Tensor, weight: float | Tensor) -> Tensor:
    """Eq. (4), Sec. 3.1: return L_val + lambda L_dir, each summed over levels: (levels, B) twice -> (B,)."""
    return value.sum(dim=0) + weight * direction.sum(dim=0)


def input_gradient(losses: Tensor, images: Tensor) -> Tensor:
    """Eq. (5), Sec. 3.1: return each image's gradient of its own loss: (B,), (B, 3, H, W) -> (B, 3, H, W).

    One backward pass for all, since no image's loss depends on another image.
    """
    (gradient,) = torch.autograd.grad(losses.sum(), images)
    return gradient


def localization_map(attribution: Tensor, sigma: float) -> Tensor:
    """Eq. (6), Sec. 3.1: blur by a Gaussian, then open with the plus: (B, H, W) -> (B, H, W). `sigma` 0: no blur."""
    return opening(gaussian_blur(attribution, sigma))


def opening(maps: Tensor) -> Tensor:
    """Erode, then dilate grey maps with the 3x3 plus, the border mirrored: (B, H, W) -> (B, H, W)."""
    return _dilation(-_dilation(-maps))


def _dilation(maps: Tensor) -> Tensor:
    # A plus is a column and a row. Padding by -inf is the same as mirroring: that repeats a pixel seen already.
    return torch.maximum(F.max_pool2d(maps, (3, 1), 1, (1, 0)), F.max_pool2d(maps, (1, 3), 1, (0, 1)))


def scale_per_image(maps: Tensor) -> Tensor:
    """Scale each map from its minimum and its 99th percentile to 0 and 1, and clip it: (B, H, W) -> (B, H, W).

    Source: the released code.
    """
    flat = maps.flatten(1)
    low, high = flat.amin(dim=1), torch.stack([m.quantile(CLIPPED_ABOVE) for m in flat])
    span = (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
    return ((maps - low[:, None, None]) / span[:, None, None]).clamp(0, 1)


@torch.no_grad()
def find_rectified(teacher: Teacher, image_size: ImageSize) -> list[bool]:
    """Return for each level whether its features are never negative, as after a ReLU; measured on one image."""
    return [f.min().item() >= 0 for f in teacher(make_ramp(image_size))]


LOSSES: dict[str, Callable[[Tensor, Tensor, float | Tensor], Tensor]] = {
    "total": total_loss,
    "val": lambda value, direction, weight: value.sum(dim=0),
    "dir": lambda value, direction, weight: direction.sum(dim=0),
}
SALIENCIES = ("gradient", "smoothgrad", "guided")
SCALINGS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda maps: maps, "per_image": scale_per_image}


class MKD(KDDetector):
    """A cloner of the teacher, which is trained on normal images and differs from it on anomalous ones.

    `cloner` is compact or equal (Fig. 4), `norm` none or batch; `critical_points` counts the levels, from the
    deepest, that enter the losses (Fig. 3), null all, and `score_levels` and `saliency_levels`, counted from 1, those
    in the score and in the loss whose gradient is the map;
    `loss` is total, val or dir (Eq. 4, and each of its parts alone); `weight` is lambda, a number or initial;
    `saliency` gradient, smoothgrad or guided (Table 1), taken through the teacher's features, too, with
    `gradient_through_teacher`; `sigma` the Gaussian's, in pixels; `scaling` none or per_image. `shared` is
    `KDDetector`'s. Raises `UserError` for another value, and for an `image_size` or levels that the cloner cannot have.
    """

    scoring = ("score_levels", "saliency_levels", "saliency", "gradient_through_teacher", "scaling", "sigma")
    differentiates = True
    direction_weight: Tensor  # lambda

    def __init__(
        self,
        cloner: str = "compact",
        norm: str = "none",
        loss: str = "total",
        weight: str | float = "initial",
        critical_points: int | None = None,
        score_levels: list[int] | None = None,
        saliency_levels: list[int] | None = None,
        saliency: str = "gradient",
        gradient_through_teacher: bool = False,
        scaling: str = "none",
        sigma: float = 4.0,
        **shared: Any,
    ):
        for key, value, valid in (
            ("cloner", cloner, SIZES), ("norm", norm, NORMS), ("loss", loss, LOSSES),
            ("saliency", saliency, SALIENCIES), ("scaling", scaling, SCALINGS),
            ("gradient_through_teacher", gradient_through_teacher, (True, False)),
        ):  # fmt: skip
            if value not in valid:
                raise UserError(f"model.{key}={value}: give one of {', '.join(map(str, valid))}")
        if not sigma >= 0:
            raise UserError(f"model.sigma={sigma}: give a number of pixels, at least 0")
        fixed = None if weight == "initial" else weight
        if fixed is not None and (
            isinstance(fixed, str) or type(fixed) not in (int, float) or not 0 <= fixed < math.inf
        ):
            raise UserError(f"model.weight={weight}: give initial or a number, at least 0")
        if shared.get("levels", "auto") == "auto" and "image_size" in shared:
            check_strides(STRIDES, shared["image_size"])  # before a VGG's fifth max-pool finds nothing to pool
        super().__init__(auto_levels=choose_last_pools, **shared)
        check_strides(self.teacher.strides, self.image_size)
        count = len(self.teacher.channels)
        if critical_points is not None and critical_points not in range(1, count + 1):
            raise UserError(f"model.critical_points={critical_points}: give a number from 1 to {count}, or null")
        self.critical_points = list(range(count + 1 - (critical_points or count), count + 1))
        chosen = []
        for key, levels in (("score_levels", score_levels), ("saliency_levels", saliency_levels)):
            chosen.append(self.critical_points if levels is None else self.choose_levels(levels, count, key))
            if not set(chosen[-1]) <= set(self.critical_points):
                raise UserError(f"model.{key}={levels}: only {self.critical_points} are critical points")
        self.score_levels, self.saliency_levels = chosen
        self.loss, self.saliency, self.scaling, self.sigma = LOSSES[loss], saliency, SCALINGS[scaling], sigma
        self.gradient_through_teacher = gradient_through_teacher
        rectified = find_rectified(self.teacher, self.image_size)
        self.cloner = Cloner(self.teacher.channels, self.teacher.strides, rectified, norm, cloner)
        # Lambda: kept in checkpoints whatever its source.
        self.fixed_weight = fixed
        self.register_buffer("direction_weight", torch.tensor(1.0 if fixed is None else float(fixed)))

    def pairs(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Return teacher and cloner features, level by level; both 0 outside a region of interest."""
        teacher, student = keep_features(
            batch, self.teacher_features(batch), self.cloner(self.normalise(batch["image"]))
        )
        return teacher, student

    def combine(self, value: Tensor, direction: Tensor, levels: list[int]) -> Tensor:
        """Return the chosen loss over some levels, counted from 1: (levels, B) twice -> (B,)."""
        rows = [k - 1 for k in levels]
        weight = self.direction_weight if self.fixed_weight is None else self.fixed_weight
        return self.loss(value[rows], direction[rows], weight)

    @torch.no_grad()
    def before_fit(self, batches: Iterable[Batch]) -> None:
        """Set lambda from "the initial amount of error for each term on the untrained network" (Sec. 3.1)."""
        if self.fixed_weight is not None:
            return
        # As trained on, with the batch's own statistics, yet leaving the running ones of the cloner alone.
        untrained = copy.deepcopy(self.cloner).train()
        rows, sums = [k - 1 for k in self.critical_points], torch.zeros(2, dtype=torch.float64)
        for batch in batches:
            pair: Any = keep_features(batch, self.teacher_features(batch), untrained(self.normalise(batch["image"])))
            sums += torch.stack([losses(*pair)[rows].sum().cpu() for losses in (value_losses, direction_losses)])
        sums = sums.to(self.direction_weight)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)  # each process has seen its own part of the images
        self.direction_weight.copy_(sums[0] / sums[1])

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        pairs = self.pairs(batch)
        value, direction = value_losses(*pairs), direction_losses(*pairs)
        rows = [k - 1 for k in self.critical_points]
        return {
            "loss": self.combine(value, direction, self.critical_points).mean(),
            "loss_value": value[rows].sum(dim=0).mean(),
            "loss_direction": direction[rows].sum(dim=0).mean(),
        }

    def compute_losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return Eq. (1) and (3), (levels, B) each, and the copy of the images to differentiate them by."""
        x = batch["image"].clone().requires_grad_()
        if self.gradient_through_teacher:
            teacher = self.teacher(self.normalise(x))
        else:
            # Those that came with the batch may be inference tensors, which a graph cannot keep.
            teacher = [f.clone() if f.is_inference() else f for f in self.teacher_features(batch)]
        student = self.cloner(self.normalise(x), guided_relu if self.saliency == "guided" else F.relu)
        teacher, student = keep_features(batch, teacher, student)
        return value_losses(teacher, student), direction_losses(teacher, student), x

    def smooth_gradient(self, batch: Batch) -> Tensor:
        """Return the mean of Eq. (5) over noisy copies, (B, 3, H, W), with the same noise for every image.

        Source: SmoothGrad, Table 1.
        """
        images, others = batch["image"], {key: value for key, value in batch.items() if key != "features"}
        generator, total = torch.Generator().manual_seed(0), torch.zeros_like(images)
        for _ in range(SMOOTHGRAD_SAMPLES):
            noise = SMOOTHGRAD_NOISE * torch.randn(images.shape[1:], generator=generator)
            value, direction, x = self.compute_losses({**others, "image": images + noise.to(images)})
            total += input_gradient(self.combine(value, direction, self.saliency_levels), x)
        return total / SMOOTHGRAD_SAMPLES

    def detect(self, batch: Batch) -> Detection:
        # Maps need a graph, which testing and predicting turn off, and more than the range of half precision.
        off = torch.autocast(batch["image"].device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), off:
            value, direction, x = self.compute_losses(batch)
            score = self.combine(value, direction, self.score_levels).detach()
            if self.saliency == "smoothgrad":
                gradient = self.smooth_gradient(batch)
            else:
                gradient = input_gradient(self.combine(value, direction, self.saliency_levels), x)
        attribution = self.scaling(at_least_float32(gradient).abs().sum(dim=1))
        return Detection(keep_inside(localization_map(attribution, self.sigma), batch)[:, None], score)
