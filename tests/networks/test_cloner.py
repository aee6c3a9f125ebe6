"""The cloner's structure, against MKD's Fig. 2 and the teachers' pyramids."""

import itertools

import pytest
import timm
import torch
from torch import nn

from kdad.errors import UserError
from kdad.networks.cloner import Cloner, check_strides, guided_relu, plan_stages

VGG16 = ([128, 256, 512, 512], [4, 8, 16, 32])
LITE0 = ([24, 40, 112, 320], [4, 8, 16, 32])


def convolutions(network):
    """Output widths of the convolutions, stage by stage."""
    return [[m.out_channels for m in stage if isinstance(m, nn.Conv2d)] for stage in network.stages]


def vgg16_cloner(**changed):
    return Cloner(*VGG16, rectified=[True] * 4, **changed)


def test_figure_2():
    """Every convolution of Fig. 2, stage by stage, with its max-pools."""
    cloner = vgg16_cloner()
    assert convolutions(cloner) == [[16, 16], [16, 128], [16, 16, 256], [16, 16, 512], [16, 16, 512]]
    for stage in cloner.stages:
        assert [type(m).__name__ for m in stage] == ["Conv2d", "ReLU"] * (len(stage) // 2) + ["MaxPool2d"]
    assert all(m.kernel_size == (3, 3) and m.padding == (1, 1) for m in cloner.modules() if isinstance(m, nn.Conv2d))
    # 9 c_in c_out for each, summed by hand over the widths above.
    widths = [3, 16, 16, 16, 128, 16, 16, 256, 16, 16, 512, 16, 16, 512]
    products = [a * b for a, b in itertools.pairwise(widths)]
    assert sum(p.numel() for p in cloner.parameters()) == 9 * sum(products)


@pytest.mark.slow
def test_the_equal_cloner_is_vgg16_without_biases():
    theirs = [m for m in timm.create_model("vgg16").features if isinstance(m, nn.Conv2d)]
    ours = [m for m in vgg16_cloner(size="equal").modules() if isinstance(m, nn.Conv2d)]
    assert [m.weight.shape for m in ours] == [m.weight.shape for m in theirs]


@pytest.mark.parametrize("size", ["compact", "equal"])
@pytest.mark.parametrize(
    ("channels", "strides"),
    [VGG16, LITE0, ([64], [2]), ([8, 16], [4, 16]), ([8, 16], [4, 4]), ([32, 64], [1, 2]), ([512], [32])],
)
def test_outputs_fit_the_pyramid(channels, strides, size):
    cloner = Cloner(channels, strides, [False] * len(channels), size=size)
    features = cloner(torch.rand(2, 3, 64, 64))
    assert [f.shape for f in features] == [(2, c, 64 // s, 64 // s) for c, s in zip(channels, strides, strict=True)]


def test_other_pyramids_in_the_same_spirit():
    assert convolutions(Cloner(*LITE0, rectified=[False] * 4)) == [
        [16, 16], [16, 24], [16, 16, 40], [16, 16, 112], [16, 16, 320]
    ]  # fmt: skip
    assert [widths for widths, _, _ in plan_stages([64], [8], "equal")] == [[16, 16], [32, 32], [64, 64, 64]]


def additive(network):
    """Names of parameters that are added: the output for a zero input would not be zero."""
    return [name for name, _ in network.named_parameters() if name.endswith("bias")]


@pytest.mark.parametrize("size", ["compact", "equal"])
def test_no_bias(size):
    """Sec. 3.2: "we use a bias-less network". Of batch norm, if asked for, only its shifts."""
    plain = vgg16_cloner(size=size)
    assert additive(plain) == []
    assert all(f.abs().max() == 0 for f in plain(torch.zeros(1, 3, 32, 32)))
    normed = vgg16_cloner(size=size, norm="batch")
    shifts = {f"{name}.bias" for name, m in normed.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert set(additive(normed)) == shifts
    assert not any(m.bias is not None for m in normed.modules() if isinstance(m, nn.Conv2d))


def test_batch_norm_follows_all_but_a_stages_last_convolution():
    for stage in vgg16_cloner(norm="batch").stages:
        names = [type(m).__name__ for m in stage]
        plain = sum(name == "Conv2d" for name in names) - 1
        assert names == ["Conv2d", "BatchNorm2d", "ReLU"] * plain + ["Conv2d", "ReLU", "MaxPool2d"]


def test_levels_of_a_linear_teacher_can_be_negative():
    mixed = Cloner(*LITE0, rectified=[False, True, False, True])(torch.rand(4, 3, 64, 64))
    assert [f.min().item() < 0 for f in mixed] == [True, False, True, False]
    assert all(f.min() >= 0 for f in vgg16_cloner()(torch.rand(2, 3, 32, 32)))


def test_without_norm_the_cloner_scales_with_its_input():
    """What "no bias" means for a network of ReLUs and max-pools: it is positively homogeneous."""
    cloner, x = vgg16_cloner().double(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    for one, three in zip(cloner(x), cloner(3 * x), strict=True):
        torch.testing.assert_close(3 * one, three)


def test_initialisation_is_xaviers():
    """Uniform within sqrt(6 / (fan in + fan out)), as in the released code."""
    torch.manual_seed(0)
    weight = vgg16_cloner().stages[3][4].weight  # 16 -> 512
    bound = (6 / (9 * (16 + 512))) ** 0.5
    assert 0.98 * bound < weight.abs().max().item() <= bound


def test_guided_relu():
    x = torch.tensor([-1.0, 2.0, 3.0, 0.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(guided_relu(x), x, torch.tensor([1.0, -5.0, 7.0, 4.0]))
    assert guided_relu(x).tolist() == [0, 2, 3, 0]
    assert gradient.tolist() == [0, 0, 7, 0]


@pytest.mark.parametrize(
    ("strides", "size", "message"),
    [
        ([4, 8, 16, 32], 28, "image_size=28: must be a multiple of 32.*such as 32$"),
        ([4, 8, 16, 32], 100, "such as 96 or 128"),
        ([8, 4], 64, "must be powers of two, ascending"),
        ([3, 6], 64, "must be powers of two, ascending"),
    ],
)
def test_pyramids_that_cannot_be_walked(strides, size, message):
    with pytest.raises(UserError, match=message):
        check_strides(strides, size)
