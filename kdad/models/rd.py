"""RD: reverse distillation from one-class embedding.

Deng and Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022.

| Equation, section | function | as printed / variant / deviation |
|---|---|---|
| Eq. (1), Sec. 3.1 | distance_maps | as printed |
| Eq. (2), Sec. 3.1 | per_position_loss | as printed; variant `loss: flattened`, the released code's |
| Eq. (3), Sec. 3.3 | anomaly_map | as printed, with the Gaussian of sigma 4 and `align_corners` of the code |

Readings where the paper is short. Table 5: "Pre" feeds the frozen pre-trained fourth stage to the decoder,
"+OCE" trains such a stage from scratch on the third, "+MFF" fuses the levels before it. Table 7 says
"score map" in its header: `score_levels` chooses the maps that enter the score of a model trained on all.
MFF's 1x1 convolution, which the released code builds and never calls, is applied, as in Fig. 4; `bottleneck:
concat_oce` is that code's, the aligned levels concatenated straight into the embedding.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdad.errors import UserError
from kdad.functional import cosine_distance, flattened_cosine_distance, fuse_sum
from kdad.geometry import ImageSize
from kdad.models.base import Batch, Detection, KDDetector, keep_inside
from kdad.networks.bottleneck import DeepFeatureEmbedding, OneClassEmbedding, choose_width
from kdad.networks.decoder import MirroredDecoder, check_pyramid
from kdad.networks.residual import read_style
from kdad.teacher import at_strides

BOTTLENECKS = ("pre", "oce", "mff_oce", "concat_oce")


def distance_maps(teacher_features: list[Tensor], student_features: list[Tensor]) -> list[Tensor]:
    """Eq. (1), Sec. 3.1: return M^k, a map (B, h, w) of 1 - cosine similarity per level."""
    return [cosine_distance(t, s) for t, s in zip(teacher_features, student_features, strict=True)]


def per_position_loss(teacher_features: list[Tensor], student_features: list[Tensor]) -> Tensor:
    """Eq. (2), Sec. 3.1: return the mean of M^k over positions, one value per level and image: (levels, B)."""
    return torch.stack([m.mean(dim=(1, 2)) for m in distance_maps(teacher_features, student_features)])


def flattened_loss(teacher_features: list[Tensor], student_features: list[Tensor]) -> Tensor:
    """Return 1 - cosine of whole levels, each one vector, one value per level and image: (levels, B).

    Source: the released code's form of Eq. (2).
    """
    pairs = zip(teacher_features, student_features, strict=True)
    return torch.stack([flattened_cosine_distance(t, s) for t, s in pairs])


def anomaly_map(maps: list[Tensor], size: ImageSize, sigma: float) -> Tensor:
    """Eq. (3), Sec. 3.3: add up the upsampled maps and smooth the sum: list of (B, h, w) -> (B, size, size)."""
    return fuse_sum(maps, size, align_corners=True, sigma=sigma)


LOSSES = {"per_position": per_position_loss, "flattened": flattened_loss}
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda m: m.amax(dim=(1, 2)),
    "sum": lambda m: m.sum(dim=(1, 2)),
}


class RD(KDDetector):
    """Teacher encoder, one-class bottleneck, student decoder.

    `loss` is per_position or flattened; `bottleneck` pre, oce or mff_oce (Table 5; pre takes one more level,
    which is the embedding) or concat_oce, the released code's; `score_levels` counts levels from 1 as the paper
    does ([2, 3] is M^{2,3} of Table 7), null takes all; `sigma` is the Gaussian's, in pixels; `image_score` max
    (Sec. 3.3) or, for novelty detection, sum (Sec. 4.2). `shared` is `KDDetector`'s. Raises `UserError` for another
    value, and for levels or an `image_size` from which the student cannot be built.
    """

    scoring = ("score_levels", "sigma", "image_score")

    def __init__(
        self,
        loss: str = "per_position",
        bottleneck: str = "mff_oce",
        score_levels: list[int] | None = None,
        sigma: float = 4.0,
        image_score: str = "max",
        **shared: Any,
    ):
        for key, value, valid in (
            ("loss", loss, LOSSES), ("image_score", image_score, SCORES), ("bottleneck", bottleneck, BOTTLENECKS)
        ):  # fmt: skip
            if value not in valid:
                raise UserError(f"model.{key}={value}: give one of {', '.join(valid)}")
        if not sigma >= 0:
            raise UserError(f"model.sigma={sigma}: give a number of pixels, at least 0")
        pre = bottleneck == "pre"
        super().__init__(auto_levels=at_strides(4, 8, 16, 32) if pre else at_strides(4, 8, 16), **shared)
        self.loss, self.image_score, self.sigma = LOSSES[loss], SCORES[image_score], sigma
        name, channels, strides = self.teacher.name, list(self.teacher.channels), list(self.teacher.strides)
        style = read_style(name)
        self.bottleneck: OneClassEmbedding | DeepFeatureEmbedding | None
        if pre:
            if len(channels) < 2:
                raise UserError("model.bottleneck=pre takes the last of levels as the embedding: give at least two")
            self.bottleneck = None
            width, stride = channels.pop(), strides.pop()
        else:
            width, stride = choose_width(name, channels[-1], strides[-1]), 2 * strides[-1]
            self.bottleneck = (
                DeepFeatureEmbedding(channels, strides, width, style, style.depths[-1])
                if bottleneck == "concat_oce"
                else OneClassEmbedding(channels, strides, width, style, fusion=bottleneck == "mff_oce")
            )
        check_pyramid([*strides, stride], self.image_size)
        self.decoder = MirroredDecoder(width, stride, channels, strides, style)
        self.score_levels = self.choose_levels(score_levels, len(channels))

    def pairs(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Return teacher features and the student's restoration of them, level by level."""
        features = self.teacher_features(batch)
        if self.bottleneck is None:
            return features[:-1], self.decoder(features[-1])
        return features, self.decoder(self.bottleneck(features))

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        levels = self.loss(*self.pairs(batch)).mean(dim=1)
        return {"loss": levels.sum()} | {f"loss_level_{k}": loss for k, loss in enumerate(levels, 1)}

    def detect(self, batch: Batch) -> Detection:
        maps = distance_maps(*self.pairs(batch))
        fused = anomaly_map([maps[k - 1] for k in self.score_levels], self.image_size, self.sigma)
        fused = keep_inside(fused, batch)
        return Detection(fused[:, None], self.image_score(fused))
