"""DSKD: dual-student knowledge distillation networks.

Yao, "Dual-Student Knowledge Distillation Networks for Unsupervised Anomaly Detection" (preprint).

| Equation, section | function | as printed / variant / deviation |
|---|---|---|
| Eq. (1), Sec. 1 | - | the decision of all detectors, `kdad.inference.decision`: the threshold is not given |
| Eq. (2), Sec. 3.1 | - | generic distillation; computes nothing of the method |
| Eq. (3), Sec. 3.1 | unit_vectors | deviation: divided by the norm; the printed squared norm would not normalise |
| Eq. (4), Sec. 3.1 | euclidean_maps | as printed |
| Eq. (5), Sec. 3.1 | cosine_maps | as printed |
| Eq. (6), Sec. 3.1 | distance_maps | as printed; with unit vectors it is (1 + lambda)(1 - cos): lambda only scales |
| Eq. (7), Sec. 3.1 | student_loss | as printed: the mean over levels |
| Eq. (8), Sec. 3.3 | fused_map | as printed; `align_corners` is not given: RD's code has true |
| Eq. (9), Sec. 3.3 | smoothed_map | as printed |
| Eq. (10), Sec. 3.3 | image_score | as printed |

Readings where the paper is short, or contradicts itself; no code was released.
Training: "performed separately and independently" (Sec. 1): l_e trains the encoder student, l_d the embedding and the
decoder student, which take the encoder's features without their gradient; `detach_embedding: false` lets it through.
Embedding: Algorithm 1 leaves F_emb undefined; as in Algorithm 2 it is made of the l2-normalised encoder features.
Its stride and width, the decoder's upsampling and block counts are not given: they are RD's. "A residual block" of
Sec. 3.2 is read as a ResNet-18's stage of two, since Table 6's 39.3 M parameters, 105 MB and 6.17 G operations are
those of two (one has 34.6 M, three 44.0 M). The encoder student starts as torchvision's ResNets do (`zero_init_last`).
Inputs "normalized by l2 function" (Sec. 4.1.2) would not fit a pre-trained teacher: they get its own statistics.
Table 7: X-Y are the two networks that are compared, in training and in the score, without the third where it can go.
T-E is the encoder student alone; T-D embeds the teacher's features, as RD does; in E-D the decoder student restores
the encoder student's features (without gradient to them), while the encoder still learns from the teacher, since two
students that know nothing could agree on anything. Fig. 8's caption has the embedding in all that have a decoder.
Table 8, "directly downsampled": the encoder's deepest level through one 3x3 stride-2 convolution block, as wide as
the embedding. Table 9: `score_levels` chooses the maps that enter the score of a model trained on all.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdad.errors import UserError
from kdad.functional import at_least_float32, cosine_distance, fuse_sum
from kdad.geometry import ImageSize
from kdad.models.base import Batch, Detection, KDDetector, keep_inside
from kdad.networks.bottleneck import DeepFeatureEmbedding, DirectDownsampling, choose_width
from kdad.networks.decoder import MirroredDecoder, check_pyramid
from kdad.networks.residual import read_style, start_last_norms
from kdad.teacher import FeaturePyramid, at_strides

# Table 7: the networks that each loss compares, the one to learn from first, and the score's; letters as in F_t.
TE, TD, ED = ("t", "e"), ("t", "d"), ("e", "d")
STRUCTURES = {
    "ds": ({"loss_e": TE, "loss_d": TD}, TD),
    "t_e": ({"loss_e": TE}, TE),
    "t_d": ({"loss_d": TD}, TD),
    "e_d": ({"loss_e": TE, "loss_d": ED}, ED),
}
OF_0_1 = {"score_mean", "score_std", "fitted_setting"}


def unit_vectors(features: list[Tensor]) -> list[Tensor]:
    """Eq. (3), Sec. 3.1: divide every position's vector by its l2 norm: list of (B, C, h, w) -> the same.

    They are float32 at least; a zero vector stays zero.
    """
    return [F.normalize(at_least_float32(f), dim=1) for f in features]


def euclidean_maps(target: list[Tensor], student: list[Tensor]) -> list[Tensor]:
    """Eq. (4), Sec. 3.1: return half the squared distance of unit vectors, one (B, h, w) per level."""
    return [(t - s).square().sum(dim=1) / 2 for t, s in zip(target, student, strict=True)]


def cosine_maps(target: list[Tensor], student: list[Tensor]) -> list[Tensor]:
    """Eq. (5), Sec. 3.1: return 1 - cosine similarity, one (B, h, w) per level."""
    return [cosine_distance(t, s) for t, s in zip(target, student, strict=True)]


def distance_maps(target_features: list[Tensor], student_features: list[Tensor], weight: float) -> list[Tensor]:
    """Eq. (6), Sec. 3.1: return M^k, `weight` (lambda) times Eq. (4) plus Eq. (5), one (B, h, w) per level.

    The features are as the networks give them.
    """
    target, student = unit_vectors(target_features), unit_vectors(student_features)
    pairs = zip(euclidean_maps(target, student), cosine_maps(target, student), strict=True)
    return [weight * euclidean + cosine for euclidean, cosine in pairs]


def student_loss(maps: list[Tensor]) -> Tensor:
    """Eq. (7), Sec. 3.1: return the mean over levels of the means over positions, one value per image: (B,)."""
    return torch.stack([m.mean(dim=(1, 2)) for m in maps]).mean(dim=0)


def fused_map(maps: list[Tensor], size: ImageSize, align_corners: bool = False, sigma: float = 0.0) -> Tensor:
    """Eq. (8), Sec. 3.3: add up the upsampled maps: list of (B, h, w) -> (B, size, size). `sigma` is Eq. (9)'s."""
    return fuse_sum(maps, size, align_corners, sigma)


def smoothed_map(maps: list[Tensor], size: ImageSize, sigma: float, align_corners: bool = False) -> Tensor:
    """Eq. (9), Sec. 3.3: blur Eq. (8) by a Gaussian, both in one step: list of (B, h, w) -> (B, size, size)."""
    return fused_map(maps, size, align_corners, sigma)


def image_score(smoothed: Tensor) -> Tensor:
    """Eq. (10), Sec. 3.3: return the maximum of each map: (B, H, W) -> (B,)."""
    return smoothed.amax(dim=(1, 2))


class DSKD(KDDetector):
    """Two students of one teacher: an encoder of its architecture, and a decoder fed through an embedding.

    `structure` is ds, t_e, t_d or e_d (Table 7); `dfe` false leaves the fusion of levels out of the embedding
    (Table 8), `dfe_blocks` counts its residual blocks; `detach_embedding` keeps l_d from training the encoder;
    `score_levels` counts levels from 1 ([1] is M_1 of Table 9), null takes all; `euclidean_weight` is lambda;
    `sigma` is the Gaussian's, in pixels; `align_corners` how maps are upsampled; `zero_init_last` leaves the last
    norm of each of the encoder student's residual branches at zero, as timm has it. `shared` is `KDDetector`'s. Raises
    `UserError` for another value, for one that changes nothing in the chosen structure, and for levels or an
    `image_size` from which the decoder cannot be built.
    """

    scoring = ("score_levels", "sigma", "align_corners")
    encoder: FeaturePyramid | None
    bottleneck: DeepFeatureEmbedding | DirectDownsampling | None
    decoder: MirroredDecoder | None

    def __init__(
        self,
        structure: str = "ds",
        dfe: bool = True,
        dfe_blocks: int = 2,
        detach_embedding: bool = True,
        score_levels: list[int] | None = None,
        euclidean_weight: float = 0.1,
        sigma: float = 4.0,
        align_corners: bool = True,
        zero_init_last: bool = False,
        **shared: Any,
    ):
        if structure not in STRUCTURES:
            raise UserError(f"model.structure={structure}: give one of {', '.join(STRUCTURES)}")
        switches = {"dfe": dfe, "detach_embedding": detach_embedding}
        switches |= {"align_corners": align_corners, "zero_init_last": zero_init_last}
        for key, switch in switches.items():
            if not isinstance(switch, bool):
                raise UserError(f"model.{key}={switch}: give true or false")
        for key, number in (("euclidean_weight", euclidean_weight), ("sigma", sigma)):
            if not isinstance(number, int | float) or not 0 <= number < math.inf:
                raise UserError(f"model.{key}={number}: give a number, at least 0")
        if not isinstance(dfe_blocks, int) or dfe_blocks < 1:
            raise UserError(f"model.dfe_blocks={dfe_blocks}: give a number of residual blocks, at least 1")
        idle = {
            "dfe": structure == "t_e" and not dfe,
            "dfe_blocks": (structure == "t_e" or not dfe) and dfe_blocks != 2,
            "detach_embedding": structure in ("t_e", "t_d") and not detach_embedding,
            "zero_init_last": structure == "t_d" and zero_init_last,
        }
        for key in (key for key, value in idle.items() if value):  # it would be taken for an ablation's result
            raise UserError(f"model.{key} changes nothing where structure={structure} and dfe={dfe}: leave it out")
        super().__init__(auto_levels=at_strides(4, 8, 16), **shared)
        self.structure, self.euclidean_weight = structure, euclidean_weight
        self.sigma, self.align_corners = sigma, align_corners
        self.losses, self.scored = STRUCTURES[structure]
        self.detach_embedding = detach_embedding
        name, channels, strides = self.teacher.name, self.teacher.channels, self.teacher.strides
        self.encoder = self.bottleneck = self.decoder = None
        if "loss_e" in self.losses:
            self.encoder = FeaturePyramid(name, self.teacher.paths, self.image_size)
            start_last_norms(self.encoder, zero_init_last, name)
        if "loss_d" in self.losses:
            style = read_style(name)
            width, stride = choose_width(name, channels[-1], strides[-1]), 2 * strides[-1]
            check_pyramid([*strides, stride], self.image_size)
            self.bottleneck = (
                DeepFeatureEmbedding(channels, strides, width, style, dfe_blocks)
                if dfe
                else DirectDownsampling(channels[-1], width)
            )
            self.decoder = MirroredDecoder(width, stride, channels, strides, style)
        self.score_levels = self.choose_levels(score_levels, len(channels))

    def pyramids(self, batch: Batch) -> dict[str, list[Tensor]]:
        """Return the features of every network of the structure: t teacher, e encoder and d decoder student.

        Each is a list of (B, C, h, w), shallow to deep.
        """
        found = {"t": self.teacher_features(batch)}
        if self.encoder is not None:
            found["e"] = self.encoder(self.normalise(batch["image"]))
        if self.bottleneck is not None and self.decoder is not None:
            embedded = unit_vectors(found.get("e", found["t"]))
            if self.detach_embedding:
                embedded = [f.detach() for f in embedded]
            dtype = next(self.bottleneck.parameters()).dtype  # half only where the whole detector is
            found["d"] = self.decoder(self.bottleneck([f.to(dtype) for f in embedded]))
        return found

    def pairs(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Return the features of the two networks that the score compares, level by level."""
        found = self.pyramids(batch)
        target, student = self.scored
        return found[target], found[student]

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        found = self.pyramids(batch)
        losses: dict[str, Tensor] = {}
        for key, (target, student) in self.losses.items():
            known = [f.detach() for f in found[target]]  # what is learnt from is never moved towards the learner
            losses[key] = student_loss(distance_maps(known, found[student], self.euclidean_weight)).mean()
        # One sum, since no parameter is reached by both unless the embedding is not detached.
        first, *others = losses.values()
        return {"loss": sum(others, first)} | losses

    def detect(self, batch: Batch) -> Detection:
        maps = distance_maps(*self.pairs(batch), self.euclidean_weight)
        chosen = [maps[k - 1] for k in self.score_levels]
        smoothed = smoothed_map(chosen, self.image_size, self.sigma, self.align_corners)
        smoothed = keep_inside(smoothed, batch)
        return Detection(smoothed[:, None], image_score(smoothed))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]  # version 0.1 kept statistics of its own decision there
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name not in OF_0_1}
