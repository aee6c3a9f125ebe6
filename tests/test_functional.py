"""Blur, fusion and distances against scipy and closed forms."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from kdad.functional import cosine_distance, fuse_sum, gaussian_blur, upsample
from tests.tolerances import CLOSE


@pytest.mark.parametrize("shape", [(2, 17, 33), (1, 5, 5), (3, 64, 64)])
@pytest.mark.parametrize("sigma", [0.8, 4.0])
def test_blur_is_scipys(shape, sigma):
    maps = np.random.default_rng(0).random(shape)
    expected = np.stack([scipy.ndimage.gaussian_filter(m, sigma) for m in maps])
    torch.testing.assert_close(
        gaussian_blur(torch.from_numpy(maps), sigma), torch.from_numpy(expected), **CLOSE[torch.float64]
    )


def test_blur_with_sigma_zero_is_none():
    maps = torch.rand(2, 8, 8)
    assert torch.equal(gaussian_blur(maps, 0), maps)


def test_corners_aligned_or_not():
    """Two pixels to four: aligned corners land on thirds, otherwise on quarters with the border repeated."""
    pair = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]], dtype=torch.float64)
    aligned = torch.tensor([0, 1 / 3, 2 / 3, 1], dtype=torch.float64)
    centred = torch.tensor([0, 0.25, 0.75, 1], dtype=torch.float64)
    torch.testing.assert_close(upsample(pair, 4, True)[0, 0], aligned, **CLOSE[torch.float64])
    torch.testing.assert_close(upsample(pair, 4, False)[0, 0], centred, **CLOSE[torch.float64])
    torch.testing.assert_close(fuse_sum([pair, pair], 4, True)[0, 3], 2 * aligned, **CLOSE[torch.float64])


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("sigma", [0.0, 4.0])
def test_fusion_in_one_step_is_upsampling_then_blur(align_corners, sigma):
    """Of levels that are not square, and one that is as large as the result."""
    levels = [torch.rand(2, *shape, dtype=torch.float64) for shape in ((64, 64), (16, 9), (3, 7))]
    separately = gaussian_blur(sum(upsample(level, 64, align_corners) for level in levels), sigma)
    torch.testing.assert_close(fuse_sum(levels, 64, align_corners, sigma), separately, **CLOSE[torch.float64])


def test_a_zero_vector_is_at_distance_one_with_finite_gradients():
    a = torch.zeros(1, 3, 1, 1, requires_grad=True)
    distance = cosine_distance(a, torch.ones(1, 3, 1, 1))
    distance.sum().backward()
    assert distance.item() == 1.0 and torch.isfinite(a.grad).all()
