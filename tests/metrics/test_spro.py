"""sPRO: against a slow loop over all thresholds, against PRO, and in cases worked out by hand."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from kdad.metrics.pro import pro
from kdad.metrics.spro import spro


def loop(maps, regions, limit):
    """Every threshold one by one, every region one by one, and the trapezoid rule up to the limit."""
    outside = np.ones(maps.shape, dtype=bool)
    for i, of_image in enumerate(regions):
        for mask, _ in of_image:
            outside[i] &= ~mask
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        each = [
            min((found[i] & mask).sum() / min(saturation, mask.sum()), 1.0)
            for i, of_image in enumerate(regions)
            for mask, saturation in of_image
        ]
        points.append(((found & outside).sum() / outside.sum(), sum(each) / len(each)))
    total = 0.0
    for (x1, y1), (x2, y2) in pairwise(points):
        if x1 < limit and x2 > x1:
            end = min(x2, limit)
            total += (end - x1) * (y1 + y1 + (y2 - y1) * (end - x1) / (x2 - x1)) / 2
    return total / limit


def square(y, x, height, width, side=24):
    mask = np.zeros((side, side), dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


REGIONS = [
    [],
    [(square(2, 2, 5, 5), 7.0)],
    [
        (square(0, 0, 8, 3), 500.0),
        (square(4, 1, 8, 8), 12.5),
    ],  # the first can never be more than its size; they overlap
    [(square(10, 10, 2, 9) | square(20, 0, 3, 3), 1.0)],  # in two pieces: still one region
]


@pytest.mark.parametrize("levels", [None, 12])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_against_a_loop_over_all_thresholds(levels, limit):
    maps = np.random.default_rng(0).random((4, 24, 24))
    for i, of_image in enumerate(REGIONS):
        for mask, _ in of_image:
            maps[i][mask] += 0.3
    if levels:  # with ties of normal and anomalous pixels
        maps = np.floor(maps * levels)
    assert spro(maps, REGIONS, limit) == pytest.approx(loop(maps, REGIONS, limit), abs=1e-12)


def test_without_saturation_it_is_pro():
    generator = np.random.default_rng(1)
    masks = ndimage.gaussian_filter(generator.random((3, 40, 40)), (0, 3, 3)) > 0.52
    maps = generator.random((3, 40, 40)) + 0.2 * masks
    regions = []
    for mask in masks:
        labels, number = ndimage.label(mask, structure=np.ones((3, 3)))
        regions.append([(labels == i + 1, float("inf")) for i in range(number)])
    assert sum(map(len, regions)) > 5
    for limit in (0.05, 0.3):
        assert spro(maps, regions, limit) == pytest.approx(pro(maps, masks, limit), abs=1e-12)


def test_a_part_of_a_region_is_enough():
    """A missing part may be marked anywhere in its region: a quarter of the pixels with s of a quarter is all of it."""
    mask = square(0, 0, 8, 8)
    maps = np.zeros((1, 24, 24))
    maps[0, :4, :4] = 1
    assert spro(maps, [[(mask, 16.0)]]) == 1
    # With all 64 needed: sPRO is a quarter at rate 0, and 1 at rate 1, straight in between.
    assert spro(maps, [[(mask, 64.0)]], 0.5) == pytest.approx(0.25 + 0.75 * 0.5 / 2)


def test_what_cannot_be_measured():
    maps, mask = np.zeros((1, 24, 24)), square(0, 0, 2, 2)
    for regions, message in (
        ([[]], "0 anomalous"),
        ([[(mask & False, 1.0)]], "a region needs pixels"),
        ([[(mask, 0.0)]], "saturation above 0"),
        ([[(mask | True, 1.0)]], "0 normal"),
        ([], "with regions for each"),
    ):
        with pytest.raises(ValueError, match=message):
            spro(maps, regions)
    with pytest.raises(ValueError, match="finite"):
        spro(maps * np.nan, [[(mask, 1.0)]])
