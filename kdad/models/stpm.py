"""STPM: student-teacher feature pyramid matching.

Wang, Han, Ding and Huang, "Student-Teacher Feature Pyramid Matching for Anomaly Detection", BMVC 2021.

| Equation, section | function | as printed / variant / deviation |
|---|---|---|
| Eq. (1), Sec. 3.2 | distance_maps | as printed; variant `loss: squared`, the code's, trains without the half |
| Eq. (2), Sec. 3.2 | level_losses | as printed |
| Eq. (3), Sec. 3.2 | total_loss | as printed, with the paper's weights of 1 |
| Eq. (4), Sec. 3.3 | anomaly_map | as printed; variant `map_size: 64`, the code's: multiplied there, then resized |

Validation error is the total loss on the held-out normal images; the checkpoint with the lowest is tested (Sec. 4.2).
The student starts as torchvision's ResNets and so the authors' do, with `zero_init_last` as timm's.
"""

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdad.errors import UserError
from kdad.functional import at_least_float32, upsample
from kdad.geometry import ImageSize
from kdad.models.base import Batch, Detection, KDDetector, keep_inside
from kdad.networks.residual import start_last_norms
from kdad.teacher import FeaturePyramid, at_strides


def distance_maps(teacher_features: list[Tensor], student_features: list[Tensor]) -> list[Tensor]:
    """Eq. (1), Sec. 3.2: return half the squared distance of l2-normalised vectors, (B, h, w) in [0, 2] per level."""
    return [
        (F.normalize(at_least_float32(t), dim=1) - F.normalize(at_least_float32(s), dim=1)).square().sum(dim=1) / 2
        for t, s in zip(teacher_features, student_features, strict=True)
    ]


def level_losses(teacher_features: list[Tensor], student_features: list[Tensor]) -> Tensor:
    """Eq. (2), Sec. 3.2: return the mean over positions, one value per level and image: (levels, B)."""
    return torch.stack([m.mean(dim=(1, 2)) for m in distance_maps(teacher_features, student_features)])


def total_loss(teacher_features: list[Tensor], student_features: list[Tensor]) -> Tensor:
    """Eq. (3), Sec. 3.2: return the sum over levels (every weight is 1), one value per image: (B,)."""
    return level_losses(teacher_features, student_features).sum(dim=0)


def anomaly_map(maps: list[Tensor], size: ImageSize, map_size: ImageSize | None = None) -> Tensor:
    """Eq. (4), Sec. 3.3: multiply the upsampled maps: list of (B, h, w) -> (B, size, size).

    With `map_size` they are multiplied at that size, and the product is resized.
    """
    product = reduce(torch.mul, [upsample(m, map_size or size, align_corners=False) for m in maps])
    return product if map_size is None else upsample(product, size, align_corners=False)


# How many times Eq. (3) is trained on: the released code's squared distance is twice the printed half of it.
LOSSES = {"half_squared": 1, "squared": 2}


class STPM(KDDetector):
    """A student of the teacher's own architecture, with random weights, which learns to match its pyramid.

    `loss` is half_squared or squared; `score_levels` counts levels from 1 and chooses those that enter the map,
    null takes all; `map_size` is the side, in pixels, at which maps are multiplied, null the image's;
    `zero_init_last` leaves the last norm of each of the student's residual branches at zero, as timm has it.
    `shared` is `KDDetector`'s. Raises `UserError` for another value.
    """

    scoring = ("score_levels", "map_size")

    def __init__(
        self,
        loss: str = "half_squared",
        score_levels: list[int] | None = None,
        map_size: int | None = None,
        zero_init_last: bool = False,
        **shared: Any,
    ):
        if loss not in LOSSES:
            raise UserError(f"model.loss={loss}: give one of {', '.join(LOSSES)}")
        super().__init__(auto_levels=at_strides(4, 8, 16), **shared)
        if map_size is not None and map_size < 1:
            raise UserError(f"model.map_size={map_size}: give a positive number of pixels, or null")
        self.loss_factor, self.map_size = LOSSES[loss], map_size
        self.score_levels = self.choose_levels(score_levels, len(self.teacher.channels))
        self.student = FeaturePyramid(self.teacher.name, self.teacher.paths, self.image_size)
        start_last_norms(self.student, zero_init_last, self.teacher.name)

    def pairs(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Return teacher and student features, level by level."""
        return self.teacher_features(batch), self.student(self.normalise(batch["image"]))

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        levels = self.loss_factor * level_losses(*self.pairs(batch)).mean(dim=1)
        return {"loss": levels.sum()} | {f"loss_level_{k}": loss for k, loss in enumerate(levels, 1)}

    def detect(self, batch: Batch) -> Detection:
        maps = distance_maps(*self.pairs(batch))
        fused = anomaly_map([maps[k - 1] for k in self.score_levels], self.image_size, self.map_size)
        fused = keep_inside(fused, batch)
        return Detection(fused[:, None], fused.amax(dim=(1, 2)))
