"""Every equation of RD against a hand-computed value, a slow loop, and gradcheck."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch

from kdad.models.rd import anomaly_map, distance_maps, flattened_loss, per_position_loss
from tests.tolerances import CLOSE

EXACT = CLOSE[torch.float64]


def pyramids(batch=2, seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, 3, 4, 4), (batch, 5, 2, 2)]

    def one():
        return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_(requires_grad) for s in shapes]

    return one(), one()


@pytest.mark.equation("rd", 1)
def test_distance_map_by_hand():
    # Two positions of two channels: 60 degrees apart, then opposite with other lengths.
    teacher = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]], dtype=torch.float64)
    student = torch.tensor([[[[0.5, -6.0]], [[math.sqrt(3) / 2, -8.0]]]], dtype=torch.float64)
    (found,) = distance_maps([teacher], [student])
    torch.testing.assert_close(found, torch.tensor([[[0.5, 2.0]]], dtype=torch.float64), **EXACT)


@pytest.mark.equation("rd", 1)
def test_distance_maps_against_a_loop():
    teacher, student = pyramids()
    for t, s, found in zip(teacher, student, distance_maps(teacher, student), strict=True):
        for b in range(t.shape[0]):
            for h in range(t.shape[2]):
                for w in range(t.shape[3]):
                    a, c = t[b, :, h, w].numpy(), s[b, :, h, w].numpy()
                    expected = 1 - sum(a * c) / (math.sqrt(sum(a * a)) * math.sqrt(sum(c * c)))
                    assert found[b, h, w].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.equation("rd", 2)
def test_loss_is_the_mean_over_positions_and_the_sum_over_levels():
    teacher, student = pyramids()
    expected = 0.0
    for m in distance_maps(teacher, student):
        batch, height, width = m.shape
        expected += (
            sum(m[b, h, w].item() for b in range(batch) for h in range(height) for w in range(width)) / m.numel()
        )
    found = per_position_loss(teacher, student)
    assert found.shape == (2, 2)  # levels, images: unreduced
    assert found.mean(dim=1).sum().item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation("rd", 2)
def test_the_flattened_variant_by_hand():
    # One image, one level, flattened (1, 2, 2, 0) against (2, 1, 0, 2): 4 / 9.
    teacher = torch.tensor([1.0, 2.0, 2.0, 0.0], dtype=torch.float64).view(1, 2, 1, 2)
    student = torch.tensor([2.0, 1.0, 0.0, 2.0], dtype=torch.float64).view(1, 2, 1, 2)
    assert flattened_loss([teacher], [student]).item() == pytest.approx(1 - 4 / 9, rel=1e-12)
    # Position by position, (1, 2) against (2, 0) and (2, 0) against (1, 2): 1 - 1 / sqrt(5), another quantity.
    per_position = (1 - (1 * 2 + 2 * 0) / (math.sqrt(5) * 2) + 1 - (2 * 1 + 0 * 2) / (2 * math.sqrt(5))) / 2
    assert per_position_loss([teacher], [student]).item() == pytest.approx(per_position, rel=1e-12)


@pytest.mark.equation("rd", 2)
@pytest.mark.parametrize("loss", [per_position_loss, flattened_loss])
def test_gradients(loss):
    teacher, student = pyramids(requires_grad=True)
    teacher = [t.detach() for t in teacher]
    assert torch.autograd.gradcheck(lambda *s: loss(teacher, list(s)), student)


@pytest.mark.equation("rd", 2)
@pytest.mark.parametrize("loss", [per_position_loss, flattened_loss])
def test_doubling_the_batch_with_copies_leaves_the_loss(loss):
    teacher, student = pyramids()
    once = loss(teacher, student).mean(dim=1).sum()
    twice = loss([torch.cat([t, t]) for t in teacher], [torch.cat([s, s]) for s in student]).mean(dim=1).sum()
    torch.testing.assert_close(once, twice, **EXACT)


@pytest.mark.equation("rd", 3)
def test_anomaly_map_against_numpy():
    """Bilinear with aligned corners written out, summed over levels, then scipy's Gaussian."""
    generator = np.random.default_rng(0)
    levels, size, sigma = [generator.random((n, n)) for n in (8, 4, 2)], 32, 4.0
    expected = np.zeros((size, size))
    for level in levels:
        n = len(level)
        position = np.arange(size) * (n - 1) / (size - 1)
        low = np.minimum(position.astype(int), n - 2)
        part = position - low
        rows = level[low] * (1 - part)[:, None] + level[low + 1] * part[:, None]
        expected += rows[:, low] * (1 - part) + rows[:, low + 1] * part
    expected = scipy.ndimage.gaussian_filter(expected, sigma)
    found = anomaly_map([torch.from_numpy(level)[None] for level in levels], size, sigma)
    torch.testing.assert_close(found[0], torch.from_numpy(expected), **EXACT)


@pytest.mark.equation("rd", 3)
def test_a_constant_level_stays_constant():
    found = anomaly_map([torch.full((1, 4, 4), 0.25), torch.full((1, 2, 2), 0.5)], 32, 4.0)
    torch.testing.assert_close(found, torch.full((1, 32, 32), 0.75), **CLOSE[torch.float32])
