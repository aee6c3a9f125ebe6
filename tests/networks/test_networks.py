"""Shapes and structure of RD's bottleneck and decoder, against the paper's description."""

import pytest
import torch
from torch import nn

from kdad.errors import UserError
from kdad.networks.bottleneck import (
    AlignedConcatenation,
    DeepFeatureEmbedding,
    MultiScaleFusion,
    OneClassEmbedding,
    choose_width,
)
from kdad.networks.decoder import MirroredDecoder, check_pyramid
from kdad.networks.residual import ResidualBlock, read_style
from kdad.speed import lay_out

RESNETS = {  # width of a bottleneck's middle, blocks per stage, channels of levels 1-3, embedding (He et al. 2016; Zagoruyko 2016)
    "resnet18": (None, (2, 2, 2, 2), [64, 128, 256], 512),
    "resnet50": (1 / 4, (3, 4, 6, 3), [256, 512, 1024], 2048),
    "wide_resnet50_2": (1 / 2, (3, 4, 6, 3), [256, 512, 1024], 2048),
}

NAMES = ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in RESNETS if name != "resnet18")]


@pytest.mark.parametrize("name", NAMES)
def test_style_of_resnets(name):
    bottleneck, depths, channels, embedding = RESNETS[name]
    style = read_style(name)
    assert (style.bottleneck, style.depths, style.rectified) == (bottleneck, depths, True)
    assert choose_width(name, channels[-1], 16) == embedding


def test_style_of_other_pyramids():
    assert read_style("convnext_tiny").bottleneck is None and not read_style("tf_efficientnet_lite0").rectified
    assert choose_width("tf_efficientnet_lite0", 112, 16) == 320  # its own next stage
    assert choose_width("tf_efficientnet_lite0", 320, 32) == 640  # there is none: twice as wide


@pytest.mark.parametrize("name", NAMES)
def test_embedding_and_decoder_restore_the_pyramid(name):
    _, depths, channels, embedding = RESNETS[name]
    style, strides, size = read_style(name), [4, 8, 16], 32
    features = [torch.rand(2, c, size // s, size // s) for c, s in zip(channels, strides, strict=True)]
    phi = OneClassEmbedding(channels, strides, embedding, style, fusion=True)(features)
    assert phi.shape == (2, embedding, 1, 1)
    decoder = MirroredDecoder(embedding, 32, channels, strides, style)
    assert [f.shape for f in decoder(phi)] == [f.shape for f in features]
    # Released code: blocks 3, 4, 6 from deep to shallow, the first of each with 2x2 stride-2 deconvolutions.
    assert [len(s) for s in decoder.stages] == list(depths[:3])
    for stage in decoder.stages:
        for i, block in enumerate(stage):
            ups = [m for m in block.modules() if isinstance(m, nn.ConvTranspose2d)]
            assert len(ups) == (2 if i == 0 else 0)
            assert all(m.kernel_size == (2, 2) and m.stride == (2, 2) for m in ups)
    assert not any(m.stride == (2, 2) for m in decoder.modules() if type(m) is nn.Conv2d)


@pytest.mark.slow
def test_the_oce_block_is_the_fourth_stage_of_the_same_network():
    """timm's own layer4 has the same weights, shape by shape."""
    import timm

    for name, (_, _, channels, embedding) in RESNETS.items():
        ours = OneClassEmbedding(channels, [4, 8, 16], embedding, read_style(name), fusion=False).embedding
        theirs = timm.create_model(name).layer4
        shapes = [sorted(tuple(p.shape) for p in m.parameters()) for m in (ours, theirs)]
        assert shapes[0] == shapes[1]


def test_fusion_layers_are_those_of_the_paper():
    """Level 1 is halved twice, level 2 once, by 3x3 stride-2 convolutions; then a 1x1 with batch norm and ReLU."""
    fusion = MultiScaleFusion([64, 128, 256], [4, 8, 16])
    convolutions = [
        [(m.in_channels, m.out_channels, m.kernel_size, m.stride) for m in chain.modules() if isinstance(m, nn.Conv2d)]
        for chain in fusion[0].chains
    ]
    assert convolutions == [
        [(64, 128, (3, 3), (2, 2)), (128, 256, (3, 3), (2, 2))],
        [(128, 256, (3, 3), (2, 2))],
        [],
    ]
    assert [type(m).__name__ for m in list(fusion)[1:]] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert (fusion[1].kernel_size, fusion[1].in_channels, fusion[1].out_channels) == ((1, 1), 768, 256)


def test_a_gap_between_levels_is_walked_in_halves():
    aligned = AlignedConcatenation([8, 32], [4, 16])
    assert aligned([torch.rand(1, 8, 8, 8), torch.rand(1, 32, 2, 2)]).shape == (1, 64, 2, 2)
    decoder = MirroredDecoder(64, 32, [8, 32], [4, 16], read_style("resnet18"))
    assert [tuple(f.shape[1:]) for f in decoder(torch.rand(1, 64, 1, 1))] == [(8, 8, 8), (32, 2, 2)]


def test_initialisation_is_the_released_codes():
    """Kaiming fan-out for convolutions: std = sqrt(2 / (out * k * k)); deconvolutions as the library leaves them."""
    torch.manual_seed(0)
    decoder = MirroredDecoder(512, 32, [64, 128, 256], [4, 8, 16], read_style("resnet18"))
    conv = decoder.stages[0][1].body[0]
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    up = decoder.stages[0][0].body[0]
    # The library's default: uniform within 1 / sqrt(fan in), which it takes over the output channels.
    assert up.weight.abs().max().item() <= 1 / (256 * 4) ** 0.5


def test_a_residual_block_by_hand():
    """With the branch zeroed, what is left is the ReLU of the input."""
    block = ResidualBlock(4, 4, None)
    nn.init.zeros_(block.body[-1].weight)
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(block.eval()(x), x.relu())


def test_linear_heads_where_the_teacher_can_be_negative():
    decoder = MirroredDecoder(320, 32, [24, 40, 112], [4, 8, 16], read_style("tf_efficientnet_lite0"))
    assert min(f.min().item() for f in decoder(torch.randn(4, 320, 2, 2))) < 0
    rectified = MirroredDecoder(512, 32, [64, 128, 256], [4, 8, 16], read_style("resnet18"))
    assert min(f.min().item() for f in rectified(torch.randn(4, 512, 2, 2))) >= 0


@pytest.mark.parametrize(
    ("strides", "size", "message"),
    [
        ([4, 8, 16, 32], 8, "image_size=8: must be a multiple of 32.*such as 32$"),
        ([4, 8, 16, 32], 100, "image_size=100: must be a multiple of 32.*such as 96 or 128"),
        ([4, 8, 16, 32], 16, "such as 32$"),
        ([4, 16, 8, 16], 64, "must be powers of two, ascending"),
        ([3, 6], 64, "must be powers of two, ascending"),
    ],
)
def test_pyramids_that_cannot_be_walked(strides, size, message):
    with pytest.raises(UserError, match=message):
        check_pyramid(strides, size)


@pytest.mark.parametrize("embedding", [OneClassEmbedding, DeepFeatureEmbedding])
def test_an_embedding_alone_works_on_contiguous_maps(embedding):
    """And computes the same in either layout."""
    more = {"fusion": True} if embedding is OneClassEmbedding else {}
    network = embedding([8, 16, 32], [4, 8, 16], 64, read_style("resnet18"), **more).eval()
    features = [torch.rand(2, c, 32 // s, 32 // s) for c, s in ((8, 1), (16, 2), (32, 4))]
    expected = network(features)
    lay_out(network)
    laid_out = {
        name: "contiguous" if weight.is_contiguous() else "channels last"
        for name, weight in network.named_parameters()
        if weight.dim() == 4 and weight.shape[-1] == 3  # of 1x1 weights both are true
    }
    inside = [name for name in laid_out if "chains" not in name]
    assert inside and all(laid_out[name] == "contiguous" for name in inside)
    assert all(laid_out[name] == "channels last" for name in laid_out.keys() - inside) and len(laid_out) > len(inside)
    found = network([f.contiguous(memory_format=torch.channels_last) for f in features])
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected)
