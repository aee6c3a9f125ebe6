"""The student decoder that mirrors a teacher's pyramid."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from kdad.errors import UserError
from kdad.geometry import ImageSize, check_divisible
from kdad.networks.residual import Style, build_stage, initialise


class MirroredDecoder(nn.Module):
    """A network that restores a pyramid from an embedding, deepest level first (RD, Sec. 3.1).

    (B, in_channels, H / in_stride, W / in_stride) -> list of (B, C, h, w), shallow to deep, shaped as the
    teacher's. Every resolution is doubled by a 2x2 stride-2 deconvolution. Blocks per stage, deep to shallow,
    are the teacher's counts shallow to deep (3, 4, 6 for ResNet-50), as in RD's released code: the paper
    says only "symmetrical but reversed". Where the teacher's features can be negative, a 1x1 convolution
    follows each stage, since the last ReLU of a stage could never reach them.
    """

    def __init__(self, in_channels: int, in_stride: int, channels: Sequence[int], strides: Sequence[int], style: Style):
        super().__init__()
        self.stages, self.heads = nn.ModuleList(), nn.ModuleList()
        depths = [*style.depths, *[style.depths[-1]] * len(channels)]
        c, s = in_channels, in_stride
        for depth, c_out, s_out in zip(depths, reversed(channels), reversed(strides), strict=False):
            doublings = (s // s_out).bit_length() - 1
            self.stages.append(build_stage(c, c_out, depth, style, "double", times=doublings))
            self.heads.append(nn.Identity() if style.rectified else nn.Conv2d(c_out, c_out, kernel_size=1))
            c, s = c_out, s_out
        initialise(self)

    def forward(self, embedding: Tensor) -> list[Tensor]:
        features, x = [], embedding
        for mirrored, head in zip(self.stages, self.heads, strict=True):
            x = mirrored(x)
            features.append(head(x))
        return features[::-1]


def check_pyramid(strides: Sequence[int], image_size: ImageSize) -> None:
    """Raise `UserError` where halving and doubling cannot reach the strides: shallow to deep, the embedding's last."""
    steps = [deep // shallow for shallow, deep in pairwise(strides)]
    if any(s < 1 or s & (s - 1) for s in steps) or [s for s in strides if s & (s - 1)]:
        found = list(strides)
        raise UserError(f"levels: strides {found} (the last is the embedding's) must be powers of two, ascending")
    check_divisible(image_size, strides[-1], "the embedding")
