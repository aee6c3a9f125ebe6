"""The sketch against exact ranking: its bounds hold whatever comes, in whatever order, and tighten with memory."""

import itertools

import numpy as np
import pytest

from kdad.metrics.pixels import OF_PIXELS
from kdad.metrics.ranking import average_precision, rank_curve
from kdad.metrics.sketch import Sketch

RISING = {name: metric for name, metric in OF_PIXELS.items() if name != "pixel_ap"}
ROUNDING = 1e-12  # sums of float64 in another order


def weights_of(rng: np.random.Generator, pixels: int) -> np.ndarray:
    """Of regions of 1 to 400 pixels."""
    sizes = rng.integers(1, 400, size=pixels)
    sizes = sizes[: np.searchsorted(np.cumsum(sizes), pixels) + 1]
    sizes[-1] -= sizes.sum() - pixels
    return np.repeat(1 / sizes, sizes)


def smooth(rng):
    return rng.normal(size=40_000), rng.normal(1.2, size=2_000)


def heavy_ties(rng):
    """As of a ReLU: most are 0, the others lie on a coarse grid, but for a few."""
    normal, anomalous = np.maximum(rng.normal(-1, 1, size=40_000), 0), np.maximum(rng.normal(0, 1, size=2_000), 0)
    return np.where(rng.random(40_000) < 0.2, normal, normal.round(1)), anomalous.round(1)


def one_pixel_differs(rng):
    return np.append(np.zeros(40_000), 1e-30), np.append(np.zeros(2_000), 1.0)


def halves(rng):
    return tuple(scores.astype(np.float16).astype(np.float32) for scores in smooth(rng))


def negative_and_huge(rng):
    normal, anomalous = smooth(rng)
    return -np.exp(40 * normal), -np.exp(40 * anomalous - 300)


def perfect(rng):
    return rng.random(40_000), 1 + rng.random(2_000)


def worst(rng):
    return 1 + rng.random(40_000), rng.random(2_000)


def anomalous_on_top_of_normal(rng):
    """Each anomalous score is also that of ten normal pixels: average precision is not monotone here."""
    anomalous = rng.normal(size=2_000)
    return np.repeat(anomalous, 10), anomalous


def ascending(rng):
    return tuple(np.sort(scores) for scores in smooth(rng))


def zooming_in(rng):
    """Each part of the stream lies inside a gap that the earlier ones left."""
    sides = (40_000, 0.0), (2_000, 0.5)
    return tuple((rng.normal(size=n) + shift) * 0.5 ** np.linspace(0, 60, n) for n, shift in sides)


def zooming_out(rng):
    return tuple(scores[::-1] for scores in zooming_in(rng))


STREAMS = [
    smooth, heavy_ties, one_pixel_differs, halves, negative_and_huge, perfect, worst, anomalous_on_top_of_normal,
    ascending, zooming_in, zooming_out,
]  # fmt: skip


def sketched(normal, anomalous, weights, cells: int, parts: int = 20) -> Sketch:
    sketch = Sketch()
    for part in zip(*(np.array_split(array, parts) for array in (normal, anomalous, weights)), strict=True):
        sketch = sketch.extend(*part, cells=cells)
    return sketch


def bounds_of(sketch: Sketch) -> dict[str, tuple[float, float]]:
    return sketch.bound_metrics(RISING) | {"pixel_ap": sketch.bound_average_precision()}


@pytest.mark.slow
@pytest.mark.parametrize("tiny_regions", [False, True])
@pytest.mark.parametrize("cells", [20, 200, 2_000])
@pytest.mark.parametrize("stream", STREAMS)
def test_the_exact_values_lie_within_the_bounds(stream, cells, tiny_regions):
    rng = np.random.default_rng(0)
    normal, anomalous = stream(rng)
    weights = np.ones(len(anomalous)) if tiny_regions else weights_of(rng, len(anomalous))
    exact, sketch = rank_curve(normal, anomalous, weights), sketched(normal, anomalous, weights, cells)
    for name, (least, greatest) in bounds_of(sketch).items():
        assert 0 <= least <= greatest <= 1 + ROUNDING
        assert least - ROUNDING <= OF_PIXELS[name](exact) <= greatest + ROUNDING, name
        assert least - ROUNDING <= OF_PIXELS[name](sketch.curve) <= greatest + ROUNDING, name


@pytest.mark.parametrize("stream", STREAMS)
def test_nothing_is_lost_and_scores_move_one_way(stream):
    rng = np.random.default_rng(1)
    pixels = stream(rng)
    sketch = sketched(*pixels, weights_of(rng, len(pixels[1])), cells=100)
    for scores, low, high in zip(pixels, sketch[::2], sketch[1::2], strict=True):
        below, above = (np.repeat(cells[0], cells[1].astype(int)) for cells in (low, high))
        assert (below <= np.sort(scores)).all() and (np.sort(scores) <= above).all()
        assert set(below) | set(above) <= set(scores)
        assert max(low.shape[1], high.shape[1]) <= 100
    assert sketch.anomalous_low[2].sum() == pytest.approx(sketch.anomalous_high[2].sum(), rel=1e-12)


def test_exact_while_distinct_scores_fit():
    rng = np.random.default_rng(2)
    normal, anomalous = (scores.round(1) for scores in smooth(rng))
    weights = weights_of(rng, len(anomalous))
    exact, sketch = rank_curve(normal, anomalous, weights), sketched(normal, anomalous, weights, cells=100)
    for name, (least, greatest) in bounds_of(sketch).items():
        assert least == greatest == pytest.approx(OF_PIXELS[name](exact), abs=ROUNDING)


@pytest.mark.parametrize("stream", [smooth, zooming_in, zooming_out])
def test_the_error_shrinks_with_memory(stream):
    rng = np.random.default_rng(3)
    normal, anomalous = stream(rng)
    weights = weights_of(rng, len(anomalous))
    errors = []
    for cells in (60, 600, 6_000):
        bounds = bounds_of(sketched(normal, anomalous, weights, cells))
        errors.append([greatest - least for least, greatest in bounds.values()])
    for before, after in itertools.pairwise(errors):
        assert (np.array(after) <= np.array(before) / 4).all(), errors


@pytest.mark.parametrize("change", [np.exp, lambda s: s**3, np.arctan], ids="exp cube arctan".split())
def test_only_the_order_of_scores_counts(change):
    rng = np.random.default_rng(4)
    normal, anomalous = smooth(rng)
    weights = weights_of(rng, len(anomalous))
    both = np.append(normal, anomalous)
    assert (np.argsort(change(both)) == np.argsort(both)).all() and len(np.unique(change(both))) == len(both)
    before, after = sketched(normal, anomalous, weights, 150), sketched(change(normal), change(anomalous), weights, 150)
    assert bounds_of(before) == bounds_of(after)
    for cells, changed in zip(before, after, strict=True):
        assert np.array_equal(change(cells[0]), changed[0]) and np.array_equal(cells[1:], changed[1:])


def test_raising_one_of_tied_scores_may_lower_average_precision():
    """Why its bounds are made otherwise."""
    tied, raised = rank_curve(np.ones(5), [0, 0]), rank_curve(np.ones(5), [0, 0.5])
    assert average_precision(raised) < average_precision(tied)


def test_counts_stand_for_repeated_scores():
    rng = np.random.default_rng(5)
    normal, anomalous = rng.integers(0, 30, size=200), rng.integers(10, 40, size=50)
    weights, normal_counts, anomalous_counts = rng.random(50), rng.integers(1, 9, size=200), rng.integers(1, 9, size=50)
    expected = rank_curve(
        np.repeat(normal, normal_counts), np.repeat(anomalous, anomalous_counts),
        np.repeat(weights / anomalous_counts, anomalous_counts),
    )  # fmt: skip
    found = rank_curve(normal, anomalous, weights, normal_counts, anomalous_counts)
    assert np.array_equal(found.false_positives, expected.false_positives)
    assert np.array_equal(found.true_positives, expected.true_positives)
    assert found.covered == pytest.approx(expected.covered, abs=ROUNDING)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_scores_that_are_not_finite(bad):
    with pytest.raises(ValueError, match="finite: 1 are"):
        Sketch().extend(np.array([0, bad, 1]), np.ones(1), np.ones(1), cells=2)
