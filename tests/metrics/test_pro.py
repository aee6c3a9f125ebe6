import numpy as np
import pytest
from skimage.measure import label

from kdad.metrics.pro import find_regions, pro


def slow_pro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """The definition, word by word: every region of every image by itself, at every distinct score."""
    labelled = [label(mask, connectivity=2) for mask in masks]
    found = [(k, labels == r) for k, labels in enumerate(labelled) for r in range(1, labels.max() + 1)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        predicted = maps >= threshold
        rates.append(np.sum(predicted & ~masks) / np.sum(~masks))
        overlaps.append(np.mean([predicted[k][region].mean() for k, region in found]))
    x = [rate for rate in rates if rate <= limit]
    y = [*overlaps[: len(x)], np.interp(limit, rates, overlaps)]
    x = [*x, limit]
    return sum((x[i + 1] - x[i]) * (y[i + 1] + y[i]) / 2 for i in range(len(x) - 1)) / limit


def scene(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Maps (4, 20, 24) and masks: several regions per image, two that touch at a corner only, an image without any."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((4, 20, 24), dtype=bool)
    masks[0, 2:5, 3:9] = masks[0, 12:13, 4:5] = masks[0, 15:19, 15:22] = True
    masks[1, 5:8, 5:8] = masks[1, 8:10, 8:12] = True  # (7, 7) touches (8, 8): one region
    masks[3] = rng.random((20, 24)) < 0.08
    maps = rng.normal(size=masks.shape) + masks * rng.uniform(0, 2, size=masks.shape)
    return (np.round(maps * 3) / 3 if ties else maps), masks


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0.3, 0.05, 1.0])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_slow_definition(seed, ties, limit):
    maps, masks = scene(seed, ties)
    assert pro(maps, masks, limit) == pytest.approx(slow_pro(maps, masks, limit), abs=1e-12)


def test_by_hand_interpolated_at_the_limit():
    # Regions: {9} and, touching at a corner, {7, 5}. Normal pixels: 8, 6, 4, 2, 1 (a rate of 1/5 each).
    maps = np.array([[[9, 8, 6, 7], [4, 2, 5, 1]]], dtype=np.float32)
    masks = np.array([[[1, 0, 0, 1], [0, 0, 1, 0]]], dtype=bool)
    # Thresholds 9, 8, 7, 6, 5 give (rate, overlap):
    # (0, 1/2) (1/5, 1/2) (1/5, 3/4) (2/5, 3/4) (2/5, 1). Up to 0.3: 0.2 * 1/2 + 0.1 * 3/4 = 0.175.
    assert pro(maps, masks) == pytest.approx(0.175 / 0.3, abs=1e-15)


def test_by_hand_interpolated_on_a_slope():
    # One anomalous and two normal pixels share the highest score: a straight rise from (0, 0) to (1/2, 1).
    maps = np.array([[[3, 3, 3, 0, 0]]], dtype=np.float64)
    masks = np.array([[[1, 0, 0, 0, 0]]], dtype=bool)
    # At 0.3 the curve is at 0.6: the triangle 0.3 * 0.6 / 2, divided by 0.3.
    assert pro(maps, masks) == pytest.approx(0.3, abs=1e-15)


def test_small_and_large_regions_weigh_the_same():
    masks = np.zeros((1, 12, 12), dtype=bool)
    masks[0, 0:6, 0:6] = masks[0, 11, 11] = True
    found_large, found_small = masks.astype(float), masks.astype(float)
    found_large[0, 11, 11] = -1
    found_small[0, 0:6, 0:6] = -1
    # The missed region lies below all normal pixels, beyond the limit.
    assert [pro(found_large, masks), pro(found_small, masks)] == pytest.approx([0.5, 0.5], abs=1e-12)


def test_a_perfect_map_is_one_and_a_constant_map_is_half_the_limit():
    _, masks = scene(seed=0, ties=False)
    assert pro(masks.astype(np.float32), masks) == 1.0
    assert pro(np.zeros(masks.shape), masks) == pytest.approx(0.15, abs=1e-15)


def test_regions_are_eight_connected_within_an_image():
    masks = np.zeros((3, 3, 3), dtype=bool)
    masks[0, 0, 0] = masks[0, 1, 1] = True  # touch at a corner
    masks[1, 1, 1] = masks[1, 1, 2] = True  # same place as above, another image
    masks[2, 0, 0] = masks[2, 0, 2] = masks[2, 2, :] = True
    weights, number = find_regions(masks)
    assert number == 5
    assert weights.tolist() == pytest.approx([1 / 2] * 4 + [1, 1] + [1 / 3] * 3, abs=0)
    assert weights.sum() == pytest.approx(number)


def test_no_region():
    weights, number = find_regions(np.zeros((2, 4, 4), dtype=bool))
    assert (weights.shape, number) == ((0,), 0)
    with pytest.raises(ValueError, match="0 anomalous"):
        pro(np.zeros((2, 4, 4)), np.zeros((2, 4, 4), dtype=bool))


def test_refuses_shapes_that_do_not_match():
    with pytest.raises(ValueError, match="must both be"):
        pro(np.zeros((2, 1, 4, 4)), np.zeros((2, 1, 4, 4), dtype=bool))
    with pytest.raises(ValueError, match="must both be"):
        pro(np.zeros((2, 4, 4)), np.zeros((1, 4, 4), dtype=bool))
