"""What stands before a decoder: RD's fusion (MFF) and one-class embedding (OCE), DSKD's deep embedding (DFE)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdad.networks.residual import Style, build_conv, build_stage, initialise
from kdad.speed import Contiguous
from kdad.teacher import read_feature_info


class AlignedConcatenation(nn.Module):
    """Every level brought to the deepest one's resolution, then concatenated (RD, Sec. 3.2, Fig. 4).

    A level is halved by 3x3 stride-2 convolutions with batch norm and ReLU, and takes on the channels of each
    level that it passes. List of (B, C, h, w) -> (B, len(channels) * channels[-1], h, w) at the deepest level.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]):
        super().__init__()
        width_at = dict(zip(strides, channels, strict=True))
        self.chains = nn.ModuleList()
        for c, stride in zip(channels, strides, strict=True):
            layers: list[nn.Module] = []
            while stride < strides[-1]:
                stride *= 2
                width = width_at.get(stride, channels[-1])
                layers += [*build_conv(c, width, stride=2), nn.ReLU(inplace=True)]
                c = width
            self.chains.append(nn.Sequential(*layers))
        self.out_channels = len(channels) * channels[-1]

    def forward(self, features: list[Tensor]) -> Tensor:
        return torch.cat([chain(f) for chain, f in zip(self.chains, features, strict=True)], dim=1)


class MultiScaleFusion(nn.Sequential):
    """MFF: aligned concatenation, then a 1x1 convolution with batch norm and ReLU (RD, Sec. 3.2).

    The paper does not give the 1x1's width: here it is the deepest level's, which the OCE block expects.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]):
        aligned = AlignedConcatenation(channels, strides)
        super().__init__(aligned, *build_conv(aligned.out_channels, channels[-1], kernel=1), nn.ReLU(inplace=True))


class OneClassEmbedding(nn.Module):
    """OCE, "the 4th residue block": one more residual stage that halves the resolution (RD, Sec. 3.2).

    With `fusion` it embeds MFF's output, without it the deepest level alone (RD, Table 5).
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], out_channels: int, style: Style, fusion: bool):
        super().__init__()
        self.fusion = MultiScaleFusion(channels, strides) if fusion else None
        self.embedding = Contiguous(*build_stage(channels[-1], out_channels, style.depths[-1], style, "halve"))
        initialise(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.embedding(features[-1] if self.fusion is None else self.fusion(features))


class DeepFeatureEmbedding(nn.Sequential):
    """DFE: aligned concatenation, then residual blocks, the first with a 1x1 shortcut (DSKD, Sec. 3.2, Fig. 4).

    The paper does not give the stride of that block: like RD's embedding it halves the resolution.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], out_channels: int, style: Style, blocks: int = 1
    ):
        aligned = AlignedConcatenation(channels, strides)
        stage = build_stage(aligned.out_channels, out_channels, blocks, style, "halve")
        super().__init__(aligned, Contiguous(*stage))
        initialise(self)


class DirectDownsampling(nn.Sequential):
    """The deepest level alone, halved by one 3x3 stride-2 convolution with batch norm and ReLU (DSKD, Sec. 4.3.2)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(*build_conv(in_channels, out_channels, stride=2), nn.ReLU(inplace=True))
        initialise(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        return super().forward(features[-1])


def choose_width(name: str, channels: int, stride: int) -> int:
    """Choose the width of an embedding behind a network's deepest level, which has `channels` and `stride`.

    Returns the width of the network's own next stage or, where it has none, twice that of the deepest level.
    """
    return {e["reduction"]: e["num_chs"] for e in read_feature_info(name)}.get(2 * stride, 2 * channels)
