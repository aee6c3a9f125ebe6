"""AUPIMO against closed forms and a slow reading of its definition."""

import numpy as np
import pytest
from scipy.integrate import trapezoid

from kdad.metrics.aupimo import aupimo

LOW, HIGH = 1e-5, 1e-4


def read_slowly(normal, anomalous, bounds=(LOW, HIGH), steps=40_000):
    """Walk along the logarithm of the rate: at each, the share found on the line between neighbouring thresholds."""
    rates = np.exp(np.linspace(*np.log(bounds), steps))
    vertices = [(0.0, 0.0)]
    for score in sorted({*normal, *anomalous}, reverse=True):
        vertices.append((np.mean(normal >= score), np.mean(anomalous >= score)))
    x, y = np.array(vertices).T
    found = []
    for rate in rates:
        right = np.searchsorted(x, rate, side="left")  # the first vertex at or beyond the rate
        x0, y0, x1, y1 = x[right - 1], y[right - 1], x[right], y[right]
        found.append(y0 + (y1 - y0) * (rate - x0) / (x1 - x0))
    return trapezoid(found, np.log(rates)) / np.log(bounds[1] / bounds[0])


@pytest.mark.parametrize("ties", [False, True])
def test_it_is_what_its_definition_says(ties):
    rng = np.random.default_rng(0)
    normal, anomalous = rng.normal(size=20_000), rng.normal(2.5, 1.5, size=(3, 400))
    if ties:
        normal, anomalous = normal.round(1), anomalous.round(1)
    bounds = (2e-4, 2e-2)
    images = np.repeat([7, 2, 5], 400)
    found = aupimo(normal, anomalous.ravel(), images, bounds)
    assert list(found) == [2, 5, 7]
    for number, scores in zip([7, 2, 5], anomalous, strict=True):
        assert found[number] == pytest.approx(read_slowly(normal, scores, bounds, 4000), abs=2e-4)
        assert 0 < found[number] < 1


def test_a_defect_above_all_normal_pixels_is_found_whole_and_one_below_the_bound_not_at_all():
    normal = np.arange(200_000, dtype=np.float32)
    anomalous = np.array([3e5, 4e5, 5.0, 6.0], dtype=np.float32)
    assert aupimo(normal, anomalous, [0, 0, 1, 1]) == {0: 1.0, 1: 0.0}


def test_half_a_defect_counts_half():
    normal = np.arange(200_000, dtype=np.float64)
    assert aupimo(normal, [3e5, 0.5], [4, 4]) == {4: 0.5}


def test_a_pixel_found_at_a_rate_in_between_counts_by_the_logarithm():
    # Of 10^6 normal pixels 31 lie above the one anomalous: it is found from a rate of 31e-6 on.
    normal = np.arange(1_000_000, dtype=np.float64)
    (found,) = aupimo(normal, [1_000_000 - 31.5], [0]).values()
    assert found == pytest.approx(np.log(HIGH / 31e-6) / np.log(HIGH / LOW), abs=1e-12)


def test_order_offset_and_scale_change_nothing():
    rng = np.random.default_rng(1)
    normal, anomalous = rng.normal(size=150_000), rng.normal(3, 1, size=50)
    images = rng.integers(0, 3, size=50)
    order = rng.permutation(50)
    found = aupimo(normal, anomalous, images)
    assert aupimo(np.exp(rng.permutation(normal)), np.exp(anomalous[order]), images[order]) == pytest.approx(found)


def test_too_few_normal_pixels_and_false_bounds_are_refused():
    with pytest.raises(ValueError, match="1e-05 needs 100000 pixels of normal images, not 99999"):
        aupimo(np.zeros(99_999), [1.0], [0])
    assert aupimo(np.zeros(100_000), [1.0], [0]) == {0: 1.0}
    for bounds in ((0, 1e-4), (1e-4, 1e-5), (1e-5, 2.0)):
        with pytest.raises(ValueError, match="two rising false-positive rates"):
            aupimo(np.zeros(100_000), [1.0], [0], bounds)
