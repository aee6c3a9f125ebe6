"""Residual stages in the style of a given teacher, that keep, halve or double the resolution.

One block serves encoder-like parts (RD's one-class embedding) and decoders: they differ only in the layer
that changes the resolution, a strided convolution or a 2x2 deconvolution (RD, Sec. 3.1).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from kdad.teacher import build_network

Resize = Literal["keep", "halve", "double"]


@dataclass(frozen=True)
class Style:
    """How a network builds its residual stages.

    `bottleneck` is the width of a block's middle relative to its output (ResNet-50 1/4, Wide ResNet-50-2
    1/2), or None for two plain 3x3 convolutions; `depths` counts the blocks of each stage, shallow to deep.
    `rectified` says whether a stage ends in a ReLU, so that its features are never negative.
    """

    bottleneck: float | None
    depths: tuple[int, ...]
    rectified: bool


def style_of(name: str) -> Style:
    """The style of a timm ResNet; plain blocks, two a stage, to go with any other pyramid."""
    network = build_network(name, meta=True)
    if not isinstance(network, ResNet) or not isinstance(network.layer1[0], BasicBlock | Bottleneck):
        return Style(None, (2, 2, 2, 2), rectified=False)
    block = network.layer1[0]
    ratio = block.conv2.out_channels / block.conv3.out_channels if isinstance(block, Bottleneck) else None
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    return Style(ratio, tuple(len(blocks) for blocks in stages), rectified=True)


def conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Convolution without bias, padded to keep (or exactly divide) the size, and batch norm."""
    return [nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out)]


def resizing(c_in: int, c_out: int, resize: Resize, kernel: int) -> list[nn.Module]:
    """The layer of a block that changes the resolution, and its batch norm."""
    if resize == "double":
        return [nn.ConvTranspose2d(c_in, c_out, kernel_size=2, stride=2, bias=False), nn.BatchNorm2d(c_out)]
    return conv(c_in, c_out, kernel, stride=2 if resize == "halve" else 1)


class ResidualBlock(nn.Module):
    """ResNet's basic or bottleneck block (He et al. 2016): (B, c_in, h, w) -> (B, c_out, h', w')."""

    def __init__(self, c_in: int, c_out: int, bottleneck: float | None, resize: Resize = "keep"):
        super().__init__()
        if bottleneck is None:
            layers = [*resizing(c_in, c_out, resize, kernel=3), nn.ReLU(inplace=True), *conv(c_out, c_out)]
        else:
            width = round(c_out * bottleneck)
            layers = [*conv(c_in, width, kernel=1), nn.ReLU(inplace=True)]
            layers += [*resizing(width, width, resize, kernel=3), nn.ReLU(inplace=True)]
            layers += conv(width, c_out, kernel=1)
        self.body = nn.Sequential(*layers)
        same = resize == "keep" and c_in == c_out
        self.shortcut = nn.Identity() if same else nn.Sequential(*resizing(c_in, c_out, resize, kernel=1))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


def stage(c_in: int, c_out: int, depth: int, style: Style, resize: Resize, times: int = 1) -> nn.Sequential:
    """`depth` blocks, the first `times` of which halve or double the resolution."""
    resizes = [resize] * times + ["keep"] * max(depth - times, 0)
    return nn.Sequential(*(ResidualBlock(c_in if i == 0 else c_out, c_out, style.bottleneck, r)
                           for i, r in enumerate(resizes)))  # fmt: skip


class Contiguous(nn.Sequential):
    """Layers on maps that lie channel by channel in memory.

    On a CPU, channels last is slower with many channels on maps below 8 x 8, and as fast at 8 x 8.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous())


def lay_out(network: nn.Module) -> None:
    """Weights as convolutions on a CPU like them: channels last, which is 1.3 to 4 times as fast, but in `Contiguous`."""
    network.to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, Contiguous):
            module.to(memory_format=torch.contiguous_format)


def initialise(network: nn.Module) -> None:
    """Kaiming fan-out for convolutions; deconvolutions keep the library's default (RD's released code)."""
    for module in network.modules():
        if type(module) is nn.Conv2d:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
