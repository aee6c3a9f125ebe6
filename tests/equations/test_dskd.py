"""Every equation of DSKD against a hand-computed value, a slow loop, and gradcheck."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch

from kdad.models.dskd import (
    cosine_maps,
    distance_maps,
    euclidean_maps,
    fused_map,
    image_score,
    smoothed_map,
    student_loss,
    unit_vectors,
)
from tests.tolerances import CLOSE

EXACT = CLOSE[torch.float64]
WEIGHT = 0.1  # the paper's lambda


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def pyramids(batch=2, seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, 3, 4, 4), (batch, 5, 2, 2), (batch, 4, 1, 1)]

    def one():
        return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_(requires_grad) for s in shapes]

    return one(), one()


def positions(t):
    """Every (image, row, column) of (B, C, h, w)."""
    return [(b, i, j) for b in range(t.shape[0]) for i in range(t.shape[2]) for j in range(t.shape[3])]


def unit(vector):
    length = math.sqrt(sum(v * v for v in vector))
    return [v / length for v in vector]


def reference(t, s, weight):
    """Eq. (3) to (6) of two plain vectors, number by number."""
    t, s = unit(t), unit(s)
    euclidean = 0.5 * sum((a - b) ** 2 for a, b in zip(t, s, strict=True))
    lengths = math.sqrt(sum(a * a for a in t)) * math.sqrt(sum(b * b for b in s))
    cosine = 1 - sum(a * b for a, b in zip(t, s, strict=True)) / lengths
    return weight * euclidean + cosine


@pytest.mark.equation("dskd", 3)
def test_unit_vectors_by_hand():
    """(3, 4) becomes (0.6, 0.8): the printed squared norm would give (0.12, 0.16). A zero vector stays zero."""
    (found,) = unit_vectors([tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]])])
    torch.testing.assert_close(found, tensor([[[[0.6, 0.0]], [[0.8, 0.0]]]]), **EXACT)


@pytest.mark.equation("dskd", 3)
def test_unit_vectors_against_a_loop():
    features, _ = pyramids()
    for f, found in zip(features, unit_vectors(features), strict=True):
        for b, i, j in positions(f):
            assert found[b, :, i, j].tolist() == pytest.approx(unit(f[b, :, i, j].tolist()), rel=1e-12)


@pytest.mark.equation("dskd", 3)
def test_half_precision_features_become_float32():
    assert unit_vectors([torch.ones(1, 2, 1, 1, dtype=torch.bfloat16)])[0].dtype == torch.float32
    maps = distance_maps(*[[torch.ones(1, 2, 1, 1, dtype=torch.float16)] for _ in range(2)], WEIGHT)
    assert maps[0].dtype == torch.float32


@pytest.mark.equation("dskd", 4)
def test_half_squared_distance_by_hand():
    """Equal, perpendicular and opposite unit vectors: 0, 1, 2."""
    target = tensor([[[[1.0, 1.0, 0.6]], [[0.0, 0.0, 0.8]]]])
    student = tensor([[[[1.0, 0.0, -0.6]], [[0.0, 1.0, -0.8]]]])
    (found,) = euclidean_maps([target], [student])
    torch.testing.assert_close(found, tensor([[[0.0, 1.0, 2.0]]]), **EXACT)


@pytest.mark.equation("dskd", 4)
def test_half_squared_distance_against_a_loop():
    target, student = (unit_vectors(p) for p in pyramids())
    for t, s, found in zip(target, student, euclidean_maps(target, student), strict=True):
        for b, i, j in positions(t):
            pairs = zip(t[b, :, i, j].tolist(), s[b, :, i, j].tolist(), strict=True)
            expected = sum((x - y) ** 2 for x, y in pairs) / 2
            assert found[b, i, j].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation("dskd", 5)
def test_cosine_by_hand():
    """60 degrees apart, then opposite."""
    target = tensor([[[[1.0, 0.6]], [[0.0, 0.8]]]])
    student = tensor([[[[0.5, -0.6]], [[math.sqrt(3) / 2, -0.8]]]])
    (found,) = cosine_maps([target], [student])
    torch.testing.assert_close(found, tensor([[[0.5, 2.0]]]), **EXACT)


@pytest.mark.equation("dskd", 5)
def test_cosine_against_a_loop():
    target, student = (unit_vectors(p) for p in pyramids())
    for t, s, found in zip(target, student, cosine_maps(target, student), strict=True):
        for b, i, j in positions(t):
            expected = 1 - sum(x * y for x, y in zip(t[b, :, i, j].tolist(), s[b, :, i, j].tolist(), strict=True))
            assert found[b, i, j].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation("dskd", 6)
def test_combined_map_by_hand():
    """(3, 4) against (4, 3): half the squared distance of (0.6, 0.8) and (0.8, 0.6) is 0.04, and so is 1 - cosine."""
    target, student = tensor([[[[3.0]], [[4.0]]]]), tensor([[[[40.0]], [[30.0]]]])
    (found,) = distance_maps([target], [student], WEIGHT)
    torch.testing.assert_close(found, tensor([[[0.1 * 0.04 + 0.04]]]), **EXACT)


@pytest.mark.equation("dskd", 6)
@pytest.mark.parametrize("weight", [0.0, 0.1, 2.0])
def test_combined_map_against_a_loop(weight):
    target, student = pyramids()
    for t, s, found in zip(target, student, distance_maps(target, student, weight), strict=True):
        for b, i, j in positions(t):
            expected = reference(t[b, :, i, j].tolist(), s[b, :, i, j].tolist(), weight)
            assert found[b, i, j].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation("dskd", 6)
def test_lambda_only_scales():
    target, student = pyramids()
    plain = distance_maps(target, student, 0.0)
    for weighted, cosine in zip(distance_maps(target, student, WEIGHT), plain, strict=True):
        torch.testing.assert_close(weighted, 1.1 * cosine, **EXACT)


@pytest.mark.equation("dskd", 6)
def test_a_zero_vector_has_a_distance_and_gradients():
    """Half of 1, times lambda, plus 1: whatever the other vector."""
    target = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    student = torch.zeros(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    (found,) = distance_maps([target], [student], WEIGHT)
    torch.testing.assert_close(found, torch.full_like(found, 1.05), **EXACT)
    found.sum().backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.equation("dskd", 7)
def test_loss_by_hand():
    """The mean over positions, 2.5 and 6, then over levels."""
    maps = [tensor([[[1.0, 2.0], [3.0, 4.0]]]), tensor([[[6.0]]])]
    assert student_loss(maps).tolist() == [4.25]


@pytest.mark.equation("dskd", 7)
def test_loss_against_a_loop():
    target, student = pyramids()
    for b, found in enumerate(student_loss(distance_maps(target, student, WEIGHT)).tolist()):
        expected = 0.0
        for t, s in zip(target, student, strict=True):
            here = [(i, j) for image, i, j in positions(t) if image == b]
            total = sum(reference(t[b, :, i, j].tolist(), s[b, :, i, j].tolist(), WEIGHT) for i, j in here)
            expected += total / len(here) / len(target)
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation("dskd", 7)
def test_gradients():
    target, student = pyramids(requires_grad=True)
    target = [t.detach() for t in target]
    assert torch.autograd.gradcheck(lambda *s: student_loss(distance_maps(target, list(s), WEIGHT)), student)


@pytest.mark.equation("dskd", 7)
def test_doubling_the_batch_with_copies_leaves_the_loss():
    target, student = pyramids()
    once = student_loss(distance_maps(target, student, WEIGHT))
    doubled = [[torch.cat([f, f]) for f in features] for features in (target, student)]
    twice = student_loss(distance_maps(*doubled, WEIGHT))
    torch.testing.assert_close(twice, torch.cat([once, once]), **EXACT)
    torch.testing.assert_close(twice.mean(), once.mean(), **EXACT)


def bilinear(level, size):
    """Interpolation with half-pixel centres (`align_corners` false), written out."""
    n = len(level)
    position = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    low = np.minimum(position.astype(int), max(n - 2, 0))
    part, high = position - low, np.minimum(low + 1, n - 1)
    rows = level[low] * (1 - part)[:, None] + level[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part


@pytest.mark.equation("dskd", 8)
def test_fused_map_against_numpy():
    generator = np.random.default_rng(0)
    levels, size = [generator.random((n, n)) for n in (8, 4, 2)], 32
    expected = sum(bilinear(level, size) for level in levels)
    found = fused_map([torch.from_numpy(level)[None] for level in levels], size)
    torch.testing.assert_close(found[0], torch.from_numpy(expected), **EXACT)


@pytest.mark.equation("dskd", 8)
def test_fused_map_by_hand():
    """1 and 3 side by side at twice the size: the outer pixels are kept, a quarter of the way between inside."""
    found = fused_map([tensor([[[1.0, 3.0], [1.0, 3.0]]]), tensor([[[10.0]]])], 4)
    assert found[0, 0].tolist() == [11.0, 11.5, 12.5, 13.0]


@pytest.mark.equation("dskd", 9)
def test_smoothed_map_against_scipy():
    generator = np.random.default_rng(0)
    levels, size = [generator.random((n, n)) for n in (16, 5)], 40
    fused = sum(bilinear(level, size) for level in levels)
    found = smoothed_map([torch.from_numpy(level)[None] for level in levels], size, 4.0)
    torch.testing.assert_close(found[0], torch.from_numpy(scipy.ndimage.gaussian_filter(fused, 4.0)), **EXACT)


@pytest.mark.equation("dskd", 9)
def test_a_point_becomes_a_gaussian():
    """A single 1 far from every edge: k pixels away along a row is exp(-k^2 / 2 sigma^2) of its height."""
    fused = torch.zeros(1, 65, 65, dtype=torch.float64)
    fused[0, 32, 32] = 1
    row = smoothed_map([fused], 65, 4.0)[0, 32]
    for k in (1, 4, 10):
        assert (row[32 + k] / row[32]).item() == pytest.approx(math.exp(-(k**2) / 32), rel=1e-12)


@pytest.mark.equation("dskd", 10)
def test_image_score_by_hand():
    assert image_score(tensor([[[1.0, 7.0], [3.0, 4.0]], [[0.0, -1.0], [-2.0, -3.0]]])).tolist() == [7.0, 0.0]
