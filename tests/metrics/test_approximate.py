"""PRO as released codes have it, against the same written out in loops, and cases worked out by hand."""

import numpy as np
import pytest
from skimage.measure import label

from kdad.metrics.approximate import approximate_pro
from kdad.metrics.pro import pro
from tests.metrics.test_pro import scene


def sample_slowly(maps, masks, thresholds):
    """Every region of every image by itself, at each of the thresholds. Returns rates and mean overlaps."""
    labelled = [label(mask, connectivity=2) for mask in masks]
    regions = [(k, labels == r) for k, labels in enumerate(labelled) for r in range(1, labels.max() + 1)]
    rates, overlaps = [], []
    for threshold in thresholds:
        predicted = maps > threshold
        rates.append((predicted & ~masks).sum() / (~masks).sum())
        overlaps.append(np.mean([predicted[k][region].mean() for k, region in regions]))
    return np.array(rates), np.array(overlaps)


def trapezoids(x, y):
    return sum((x[i + 1] - x[i]) * (y[i] + y[i + 1]) / 2 for i in range(len(x) - 1))


def slow_rate(maps, masks, number):
    """What RD's code computes: 200 thresholds upwards, rates below 0.3, divided by the highest."""
    low, high = maps.min(), maps.max()
    rates, overlaps = sample_slowly(maps, masks, [low + i * (high - low) / number for i in range(number)])
    kept = rates < 0.3
    return trapezoids((rates[kept] / rates[kept].max())[::-1], overlaps[kept][::-1])


def slow_both(maps, masks, number):
    """What STPM's code computes: thresholds downwards, rates up to 0.3, both axes moved to 0 ... 1."""
    low, high = maps.min(), maps.max()
    rates, overlaps = sample_slowly(maps, masks, [high - i * (high - low) / number for i in range(number)])
    x, y = rates[rates <= 0.3], overlaps[rates <= 0.3]
    return trapezoids((x - x.min()) / (x.max() - x.min()), (y - y.min()) / (y.max() - y.min()))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rescale", "slow"), [("rate", slow_rate), ("both", slow_both)])
def test_equals_the_codes_in_loops(seed, rescale, slow):
    maps, masks = scene(seed, ties=False)
    for number in (20, 200):
        expected = slow(maps, masks, number)
        assert approximate_pro(maps, masks, number, rescale=rescale) == pytest.approx(expected, abs=1e-12)
    alone = [slow(maps[[i]], masks[[i]], 200) for i in range(len(masks)) if masks[i].any()]
    assert len(alone) == 3
    found = approximate_pro(maps, masks, 200, mean_over="images", rescale=rescale)
    assert found == pytest.approx(np.mean(alone), abs=1e-12)


def test_many_thresholds_come_near_to_the_exact_value_and_few_do_not():
    maps, masks = scene(0, ties=False)
    exact = pro(maps, masks)
    assert approximate_pro(maps, masks) == exact
    assert approximate_pro(maps, masks, 100_000) == pytest.approx(exact, abs=1e-4)
    assert abs(approximate_pro(maps, masks, 5) - exact) > 0.01


def test_equally_spaced_thresholds_miss_what_the_exact_value_sees():
    """Scores like products of maps: all but a few lie in the lowest of the bins."""
    maps, masks = scene(1, ties=False)
    exact, products = pro(maps, masks), np.exp(4 * maps)
    assert pro(products, masks) == pytest.approx(exact, abs=1e-12)  # the order of the scores has not changed
    assert approximate_pro(products, masks, 200) < exact - 0.05


def test_by_hand():
    # One region of the scores 10 and 4; normal 8, 2, 0, 0, 0, 0. Five steps of 2: thresholds 0, 2, 4, 6, 8.
    maps = np.array([[[10, 8, 2, 0], [4, 0, 0, 0]]], dtype=np.float64)
    masks = np.array([[[1, 0, 0, 0], [1, 0, 0, 0]]], dtype=bool)
    # Rates 2/6, 1/6, 1/6, 1/6, 0; overlaps 1, 1, 1/2, 1/2, 1/2. Below 0.3 the highest rate is 1/6.
    assert approximate_pro(maps, masks, 5, rescale="rate") == pytest.approx(1 / 2, abs=1e-15)
    # From 10 downwards, 10 to 2: rates 0, 0, 1/6, 1/6, 1/6 and overlaps 0, 1/2, 1/2, 1/2, 1, which is rescaled already.
    assert approximate_pro(maps, masks, 5, rescale="both") == pytest.approx(1 / 2, abs=1e-15)
    # Both ends and (1, 1): (0, 0) (0, 1/2) (1/6, 1/2) (1/6, 1) (2/6, 1); up to 0.3: 1/6 * 1/2 + (0.3 - 1/6) * 1.
    assert approximate_pro(maps, masks, 5) == pytest.approx((1 / 12 + 0.3 - 1 / 6) / 0.3, abs=1e-15)


def test_the_mean_over_images_is_another_than_over_regions():
    """An image with one region found counts as much as another with three that are not."""
    masks = np.zeros((2, 9, 9), dtype=bool)
    masks[0, 0, :3] = masks[1, 0, :3] = masks[1, 4, :3] = masks[1, 8, :3] = True
    maps = np.zeros((2, 9, 9))
    maps[0, 0, :3], maps[1, 1:3] = 1.0, 1.0
    exact = pro(maps, masks)
    assert exact < 0.5 < approximate_pro(maps, masks, mean_over="images")


def test_undefined_says_why():
    maps, masks = scene(0, ties=False)
    with pytest.raises(ValueError, match="no anomalous pixel"):
        approximate_pro(maps, masks & False, 200)
    with pytest.raises(ValueError, match="no anomalous pixel"):
        approximate_pro(maps, masks & False, 200, mean_over="images")
    with pytest.raises(ValueError, match="no normal pixel"):
        approximate_pro(maps, masks | True, 200)
    # Of three thresholds none lies between all normal pixels and none: RD's code has NaN there
    far = np.where(masks, 1000.0, 0.0) + maps / 1000
    for rescale in ("rate", "both"):
        with pytest.raises(ValueError, match="too few of 3 equally spaced thresholds"):
            approximate_pro(far, masks, 3, rescale=rescale)
