"""Metrics by kind of defect and size of region: as of a test that had only these."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve

from kdad.metrics import DetectionMetrics
from kdad.metrics.defects import SIZES

SIDE = 100
KINDS = {3: "dot", 4: "dot", 5: "patch", 6: "both"}


@pytest.fixture(scope="module")
def test_set():
    """Ten normal images, two with a dot of 4 pixels, one with a patch of 400, one with both and a stripe of 2000."""
    rng = np.random.default_rng(0)
    masks = np.zeros((14, SIDE, SIDE), dtype=bool)
    for image, parts in {3: "d", 4: "d", 5: "p", 6: "dps"}.items():
        masks[image, 10:12, 10:12] |= "d" in parts
        masks[image, 30:50, 30:50] |= "p" in parts
        masks[image, 70:90] |= "s" in parts
    maps = (rng.normal(size=masks.shape) + 1.5 * masks).round(2)  # with ties
    return torch.from_numpy(maps)[:, None], torch.from_numpy(masks)[:, None]


def measure(maps, masks, batch=5, order=None, **options):
    state = DetectionMetrics(**options)
    state.kinds = KINDS
    index = torch.arange(len(maps)) if order is None else torch.tensor(order)
    for rows in index.split(batch):
        state.update(
            rows, maps[rows].amax(dim=(1, 2, 3)), masks[rows].any(dim=3).any(dim=2)[:, 0], maps[rows], masks[rows]
        )
    return state.compute()


def test_each_kind_is_measured_against_all_normal_pixels(test_set):
    maps, masks = (part.numpy()[:, 0] for part in test_set)
    found = {row.name: row for row in measure(*test_set).defects if row.by == "kind"}
    assert list(found) == ["both", "dot", "patch"]
    for kind, images, regions in (("dot", [3, 4], 2), ("patch", [5], 1), ("both", [6], 3)):
        row = found[kind]
        mine = np.isin(np.arange(14), images)[:, None, None] & masks
        assert (row.images, row.regions, row.pixels) == (len(images), regions, mine.sum())
        chosen = mine | ~masks
        truth, scores = mine[chosen], maps[chosen]
        assert row.pixel_ap == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
        precision, recall, _ = precision_recall_curve(truth, scores)
        both = precision + recall
        assert row.pixel_f1_max == pytest.approx(np.max(2 * precision * recall / np.where(both, both, 1)), abs=1e-12)
        assert row.pro == pytest.approx(read_pro(maps[~masks], [maps[region] for region in split(mine)]), abs=1e-12)


def split(mask):
    """The regions of masks (N,H,W), each as a mask, by the rows that they lie in: a row of an image has one region."""
    rows = {"dot": slice(0, 20), "patch": slice(20, 60), "stripe": slice(60, None)}
    for image in range(len(mask)):
        for part in rows.values():
            region = np.zeros_like(mask)
            region[image, part] = mask[image, part]
            if region.any():
                yield region


def read_pro(normal, regions, limit=0.3):
    """PRO pixel by pixel: each is found from the rate of its score on, a tie along a line, for the rest up to the limit."""
    worth = []
    for scores in regions:
        found = []
        for score in scores:
            low, high = np.mean(normal > score), np.mean(normal >= score)
            if high <= limit:
                found.append(1 - (low + high) / 2 / limit)
            else:
                found.append(max(limit - low, 0) ** 2 / (2 * (high - low)) / limit)
        worth.append(np.mean(found))
    return np.mean(worth)


def test_pro_is_the_mean_over_regions_of_kinds_and_of_sizes(test_set):
    outcome = measure(*test_set)
    for by in ("kind", "size"):
        rows = [row for row in outcome.defects if row.by == by]
        assert sum(row.regions for row in rows) == 6
        mean = sum(row.pro * row.regions for row in rows) / 6
        assert mean == pytest.approx(outcome.metrics["pro"], abs=1e-12)
    sizes = {row.name: row.regions for row in outcome.defects if row.by == "size"}
    assert sizes == {"below 0.1 %": 3, "1 to 10 %": 2, "10 % and more": 1}
    assert set(sizes) <= set(SIZES.values())


def test_order_and_batches_and_images_that_come_twice_change_nothing(test_set):
    outcome = measure(*test_set)
    other = measure(*test_set, batch=3, order=[*reversed(range(14)), 6, 0])
    for one, two in zip(outcome.defects, other.defects, strict=True):
        assert one[:5] == two[:5] and one[5:] == pytest.approx(two[5:], abs=1e-12, nan_ok=True)
    assert other.overlaps == pytest.approx(outcome.overlaps) and set(outcome.overlaps) == {3, 4, 5, 6}
    assert outcome.metrics["aupimo"] == pytest.approx(np.mean(list(outcome.overlaps.values())))


def test_what_cannot_be_measured_says_why(test_set):
    maps, masks = test_set
    few = measure(maps[3:8], masks[3:8])
    assert (
        few.metrics["aupimo"] is None
        and "needs 100000 pixels of normal images, not 10000" in few.metrics["aupimo_reason"]
    )
    assert few.overlaps == {} and {row.by for row in few.defects} == {"kind", "size"}
    streamed = measure(maps, masks, mode="streaming", memory_gb=0.01)
    assert streamed.defects == [] and "metrics.memory_gb" in streamed.metrics["aupimo_reason"]
    left_out = measure(maps, masks, pixels="anomalous_images")
    assert left_out.metrics["aupimo_reason"] == "no pixel of a normal image" and left_out.defects
    state = DetectionMetrics()
    state.update(torch.arange(2), torch.tensor([0.0, 1.0]), torch.tensor([0, 1]))
    assert state.compute().metrics["aupimo_reason"] == "the data set has no masks"
