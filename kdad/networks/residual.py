"""Residual stages in the style of a given teacher, that keep, halve or double the resolution.

One block serves encoder-like parts (RD's one-class embedding) and decoders: they differ only in the layer
that changes the resolution, a strided convolution or a 2x2 deconvolution (RD, Sec. 3.1).
"""

import logging
from dataclasses import dataclass
from typing import Literal

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdad.teacher import build_network

log = logging.getLogger(__name__)

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


def read_style(name: str) -> Style:
    """Read the style of a timm ResNet; for any other network return plain blocks, two a stage."""
    network = build_network(name, meta=True)
    if isinstance(network, ResNet):
        stages = [list(network.get_submodule(f"layer{number}").children()) for number in range(1, 5)]
        depths, block = tuple(len(blocks) for blocks in stages), stages[0][0]
        if isinstance(block, Bottleneck):
            return Style(block.conv2.out_channels / block.conv3.out_channels, depths, rectified=True)
        if isinstance(block, BasicBlock):
            return Style(None, depths, rectified=True)
    return Style(None, (2, 2, 2, 2), rectified=False)


def build_conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Build a convolution without bias, padded to keep (or exactly divide) the size, and its batch norm."""
    return [nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(c_out)]


def build_resize(c_in: int, c_out: int, resize: Resize, kernel: int) -> list[nn.Module]:
    """Build the layer of a block that keeps, halves or doubles the resolution, and its batch norm."""
    if resize == "double":
        return [nn.ConvTranspose2d(c_in, c_out, kernel_size=2, stride=2, bias=False), nn.BatchNorm2d(c_out)]
    return build_conv(c_in, c_out, kernel, stride=2 if resize == "halve" else 1)


class ResidualBlock(nn.Module):
    """ResNet's basic or bottleneck block (He et al. 2016): (B, c_in, h, w) -> (B, c_out, h', w')."""

    def __init__(self, c_in: int, c_out: int, bottleneck: float | None, resize: Resize = "keep"):
        super().__init__()
        if bottleneck is None:
            layers = [*build_resize(c_in, c_out, resize, kernel=3), nn.ReLU(inplace=True), *build_conv(c_out, c_out)]
        else:
            width = round(c_out * bottleneck)
            layers = [*build_conv(c_in, width, kernel=1), nn.ReLU(inplace=True)]
            layers += [*build_resize(width, width, resize, kernel=3), nn.ReLU(inplace=True)]
            layers += build_conv(width, c_out, kernel=1)
        self.body = nn.Sequential(*layers)
        same = resize == "keep" and c_in == c_out
        self.shortcut = nn.Identity() if same else nn.Sequential(*build_resize(c_in, c_out, resize, kernel=1))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


def build_stage(c_in: int, c_out: int, depth: int, style: Style, resize: Resize, times: int = 1) -> nn.Sequential:
    """Build a stage of `depth` blocks, the first `times` of which halve or double the resolution."""
    resizes: list[Resize] = [resize if i < times else "keep" for i in range(max(depth, times))]
    blocks = [ResidualBlock(c_in if i == 0 else c_out, c_out, style.bottleneck, r) for i, r in enumerate(resizes)]
    return nn.Sequential(*blocks)


def initialise(network: nn.Module) -> None:
    """Draw the weights of convolutions by Kaiming's rule over the fan-out; deconvolutions keep torch's default.

    Source: RD's released code.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def start_last_norms(network: nn.Module, zero: bool, name: str) -> None:
    """Let the last batch norm of each residual branch of a fresh network start at one, or leave it at zero.

    timm's ResNets start at zero, so that every block begins as the identity; torchvision's, and so the authors', start
    at one. Warns where `zero` is asked of a network, called `name`, that has no weights of zero.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.affine and not m.weight.any()]
    if zero and not norms:
        log.warning("model.zero_init_last=true changes nothing: %s starts no batch norm at zero", name)
    for norm in () if zero else norms:
        nn.init.ones_(norm.weight)
