"""Every equation of STPM against a hand-computed value, a slow loop, and gradcheck."""

import math

import numpy as np
import pytest
import torch

from kdad.models.stpm import anomaly_map, distance_maps, level_losses, total_loss
from tests.equations.test_rd import pyramids
from tests.tolerances import CLOSE

EXACT = CLOSE[torch.float64]


@pytest.mark.equation("stpm", 1)
def test_distance_by_hand():
    # (3, 4) and (0, 2) normalise to (0.6, 0.8) and (0, 1): half of 0.36 + 0.04 is 0.2. Opposite vectors: half of 4.
    teacher = torch.tensor([[[[3.0, 1.0]], [[4.0, 1.0]]]], dtype=torch.float64)
    student = torch.tensor([[[[0.0, -2.0]], [[2.0, -2.0]]]], dtype=torch.float64)
    (found,) = distance_maps([teacher], [student])
    torch.testing.assert_close(found, torch.tensor([[[0.2, 2.0]]], dtype=torch.float64), **EXACT)


@pytest.mark.equation("stpm", 1)
def test_distance_is_one_minus_cosine():
    """ "Proportional to the cosine distance" (Sec. 3.2), by a loop over positions."""
    teacher, student = pyramids()
    for t, s, found in zip(teacher, student, distance_maps(teacher, student), strict=True):
        for b, h, w in np.ndindex(*found.shape):
            a, c = t[b, :, h, w].numpy(), s[b, :, h, w].numpy()
            cosine = sum(a * c) / (math.sqrt(sum(a * a)) * math.sqrt(sum(c * c)))
            assert found[b, h, w].item() == pytest.approx(1 - cosine, rel=1e-10, abs=1e-12)


@pytest.mark.equation("stpm", 2)
def test_level_loss_is_the_mean_over_positions():
    teacher, student = pyramids()
    found = level_losses(teacher, student)
    assert found.shape == (2, 2)  # levels, images: unreduced
    for level, m in enumerate(distance_maps(teacher, student)):
        for image in range(2):
            values = [m[image, h, w].item() for h in range(m.shape[1]) for w in range(m.shape[2])]
            assert found[level, image].item() == pytest.approx(sum(values) / len(values), rel=1e-12)


@pytest.mark.equation("stpm", 3)
def test_total_loss_weighs_every_level_the_same():
    teacher, student = pyramids()
    levels = level_losses(teacher, student)
    torch.testing.assert_close(total_loss(teacher, student), levels[0] + levels[1], **EXACT)


@pytest.mark.equation("stpm", 3)
def test_gradients():
    teacher, student = pyramids(requires_grad=True)
    teacher = [t.detach() for t in teacher]
    assert torch.autograd.gradcheck(lambda *s: total_loss(teacher, list(s)), student)


@pytest.mark.equation("stpm", 3)
def test_the_batch_loss_is_a_mean_over_images():
    """Not a sum: at batch 32 that would be 32 times the paper's loss at the same learning rate."""
    teacher, student = pyramids(batch=2)
    one_by_one = [total_loss([t[i : i + 1] for t in teacher], [s[i : i + 1] for s in student]).item() for i in range(2)]
    assert total_loss(teacher, student).mean().item() == pytest.approx(sum(one_by_one) / 2, rel=1e-12)


def bilinear(level, size):
    """Without aligned corners: output pixel i looks at (i + 1/2) n / size - 1/2, clamped at the border."""
    n = len(level)
    position = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    low = np.minimum(position.astype(int), n - 2)
    part = position - low
    rows = level[low] * (1 - part)[:, None] + level[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


@pytest.mark.equation("stpm", 4)
@pytest.mark.parametrize("map_size", [None, 16])
def test_anomaly_map_is_the_product_of_upsampled_maps(map_size):
    generator = np.random.default_rng(0)
    levels, size = [generator.random((n, n)) for n in (8, 4, 2)], 32
    product = np.prod([bilinear(level, map_size or size) for level in levels], axis=0)
    expected = product if map_size is None else bilinear(product, size)
    found = anomaly_map([torch.from_numpy(level)[None] for level in levels], size, map_size)
    torch.testing.assert_close(found[0], torch.from_numpy(expected), **EXACT)
