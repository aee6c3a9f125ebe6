"""Counts on the real sets, typed from their descriptions."""

from collections import Counter

import pytest
import torch

from kdad.data import MTD, MVTec

pytestmark = pytest.mark.slow  # processes of their own, or many seconds


def test_mvtec_grid(kdad_data, options):
    data = MVTec(**options(kdad_data / "mvtec", category="grid", image_size=32))
    data.setup()
    expected = {"n_train": 240, "n_val": 0, "n_test": 81, "n_empty_masks": 0, "n_nonbinary_masks": 0}
    assert data.facts | expected == data.facts and data.has_masks
    assert Counter(sample.label for sample in data.test_samples) == {0: 24, 1: 57}
    assert len({sample.kind for sample in data.test_samples}) == 6


@pytest.fixture
def mtd(kdad_data, options):
    def build(**changes) -> MTD:
        return MTD(**options(kdad_data / "mtd", batch_size=64, **changes))

    return build


def test_mtd_split(mtd):
    data = mtd()
    data.check()
    assert data.facts == {"n_train": 762, "n_val": 0, "n_test": 190 + 392, "n_duplicates": 0}
    assert data.categories() == ["all"] and data.category == "all"
    kinds = {"free": 190, "blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103}
    assert Counter(sample.kind for sample in data.test_samples) == kinds
    assert not {s.path for s in data.train_samples} & {s.path for s in data.test_samples}
    other = mtd(split_seed=1)
    other.check()
    assert set(other.train_samples) != set(data.train_samples)


def test_mtd_subsets_are_nested_and_share_the_test_images(mtd):
    parts = [mtd(max_train=n) for n in (50, 200, None)]
    for part in parts:
        part.check()
    small, middle, whole = (set(part.train_samples) for part in parts)
    assert (len(small), len(middle)) == (50, 200) and small < middle < whole
    assert parts[0].test_samples == parts[2].test_samples


def test_mtd_masks(mtd, caplog):
    """Four masks of MT_Uneven are empty; their images stay anomalous."""
    data = mtd(image_size=16, max_train=1)
    data.setup()
    assert data.facts["n_empty_masks"] == 4 and data.facts["n_nonbinary_masks"] == 392 - 4
    batches = list(data.test_dataloader())
    labels = torch.cat([batch["label"] for batch in batches])
    regions = torch.cat([batch["mask"] for batch in batches]).flatten(1).any(1)
    assert int(labels.sum()) == 392
    assert int((labels.bool() & ~regions).sum()) == 4 + data.facts["n_vanished_masks"]
    assert "4 of 392 masks have no anomalous pixel" in caplog.text
