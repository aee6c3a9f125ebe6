"""MKD's cloner: a plain convolutional student with an output wherever the teacher has a critical point."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdad.errors import UserError
from kdad.geometry import ImageSize, check_divisible

NORMS = ("none", "batch")
SIZES = ("compact", "equal")
NARROW = 16  # Fig. 2: the width of every convolution that does not end at a critical point


class Cloner(nn.Module):
    """Bias-free 3x3 convolutions in stages, a max-pool after each (MKD, Fig. 2 and Sec. 3.2).

    Maps (B, 3, H, W) to a list of (B, C, h, w), shaped as the teacher's levels. For the pyramid of VGG-16
    `compact` has exactly Fig. 2's widths and `equal` those of VGG-16 itself; see `plan_stages` for other pyramids.
    `rectified` says of each level whether the teacher's features are never negative: elsewhere a last ReLU
    could not reach them, and the level's last convolution is linear. `norm="batch"` follows each convolution,
    but for a stage's last, by batch norm, as the released code does; its shifts are then the only additive parameters.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        rectified: Sequence[bool],
        norm: str = "none",
        size: str = "compact",
    ):
        super().__init__()
        self.stages = nn.ModuleList()
        self.ends_in_level: list[bool] = []
        relu_at_level, c = iter(rectified), 3
        for widths, halved, level in plan_stages(channels, strides, size):
            layers: list[nn.Module] = []
            for width in widths[:-1]:
                layers += [nn.Conv2d(c, width, 3, padding=1, bias=False)]
                layers += [nn.BatchNorm2d(width)] if norm == "batch" else []
                layers += [nn.ReLU()]
                c = width
            layers += [nn.Conv2d(c, widths[-1], 3, padding=1, bias=False)]
            layers += [nn.ReLU()] if not level or next(relu_at_level) else []
            layers += [nn.MaxPool2d(2)] if halved else []
            c = widths[-1]
            self.stages.append(nn.Sequential(*layers))
            self.ends_in_level.append(level)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)  # released code; the paper does not say

    def forward(self, images: Tensor, relu: Callable[[Tensor], Tensor] = F.relu) -> list[Tensor]:
        """Return the features of images, shallow to deep; `relu` replaces every ReLU, see `guided_relu`."""
        features, x = [], images
        for stage, level in zip(self.stages, self.ends_in_level, strict=True):
            for layer in stage.children():
                x = relu(x) if isinstance(layer, nn.ReLU) else layer(x)
            if level:
                features.append(x)
        return features


def plan_stages(channels: Sequence[int], strides: Sequence[int], size: str) -> Iterator[tuple[list[int], bool, bool]]:
    """Plan the stages of a cloner.

    Yields of each the widths of its convolutions, whether a max-pool follows, and whether it ends at a level. A stage
    halves the resolution, so that levels are as many stages apart as halvings (one without a max-pool where two levels
    share a stride). As in VGG-16 the first two stages have two convolutions, later ones three. An `equal` stage on the
    way to a level has half the width of the one after it, as VGG-16's first.
    """
    number, before = 0, 1
    for c, stride in zip(channels, strides, strict=True):
        halvings = (stride // before).bit_length() - 1
        for missing in reversed(range(max(halvings, 1))):
            number += 1
            depth = 2 if number <= 2 else 3
            if size == "compact":
                widths = [NARROW] * (depth - 1) + [NARROW if missing else c]
            else:
                widths = [max(c >> missing, min(c, NARROW))] * depth
            yield widths, halvings > 0, not missing
        before = stride


def check_strides(strides: Sequence[int], image_size: ImageSize) -> None:
    """Raise `UserError` for strides, shallow to deep, that a cloner cannot reach by halving the image."""
    if any(s & (s - 1) for s in strides) or list(strides) != sorted(strides):
        raise UserError(f"levels: strides {list(strides)} must be powers of two, ascending")
    check_divisible(image_size, strides[-1], "the deepest level")


class _GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient.clamp_min(0) * (x > 0)


def guided_relu(x: Tensor) -> Tensor:
    """Apply a ReLU that blocks negative gradients: guided backpropagation (Springenberg et al. 2015)."""
    return _GuidedReLU.apply(x)
