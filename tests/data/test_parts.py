"""Studies of the training images: few of them, or anomalous ones among them."""

import numpy as np
import pytest

from kdad.data import MVTec
from kdad.errors import UserError


@pytest.fixture
def tile(mvtec_root, options, save):
    """Read a category of 10 training images and a test of 3 normal and 3 anomalous ones."""
    rng = np.random.default_rng(1)
    save(mvtec_root / "tile/test/scratch/002.png", rng.integers(0, 256, (16, 20), np.uint8))
    save(mvtec_root / "tile/ground_truth/scratch/002_mask.png", np.full((16, 20), 255, np.uint8))

    def build(**changes) -> MVTec:
        data = MVTec(**options(mvtec_root, category="tile", **changes))
        data.check()
        return data

    return build


def names(samples) -> set:
    return {sample.path for sample in samples}


def test_shots_are_all_that_a_detector_sees(tile):
    few = {n: tile(shots=n, val_fraction=0.2 if n > 1 else 0.0, calibration_fraction=0.0) for n in (1, 2, 5)}
    seen = {n: names(data.train_samples + data.val_samples) for n, data in few.items()}
    assert {n: len(found) for n, found in seen.items()} == {1: 1, 2: 2, 5: 5}
    assert seen[1] < seen[2] < seen[5] < names(tile().train_samples)
    assert (
        tile(shots=2, split_seed=3).train_samples != tile(shots=2).train_samples == tile(shots=2, seed=9).train_samples
    )
    assert all(data.test_samples == tile().test_samples for data in few.values())
    assert few[1].fingerprint != tile().fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 11}, r"dataset.shots=11: there are only 10 training images in "),
        ({"shots": 0}, "dataset.shots=0: give a whole number of training images, at least 1"),
        ({"shots": 1.5}, "dataset.shots=1.5: give a whole number"),
        ({"shots": True}, "dataset.shots=True: give a whole number"),
        ({"shots": 2, "train_fraction": 0.5}, "dataset.shots=2 with dataset.train_fraction=0.5: give one"),
        ({"shots": 1, "val_fraction": 0.2}, "val_fraction=0 trains on it"),
        ({"contamination": 1.0}, "dataset.contamination=1.0: give a share of the training images"),
        ({"contamination": -0.1}, "dataset.contamination=-0.1"),
        ({"contamination": "a"}, "dataset.contamination=a"),
        ({"contamination": 0.2, "max_contamination": 0.1}, "dataset.max_contamination=0.1 is below"),
    ],
)
def test_what_is_no_study_is_refused(tile, changes, message):
    with pytest.raises(UserError, match=message):
        tile(**changes)


def test_contamination_is_the_share_of_anomalous_images_that_pass_for_normal(tile):
    clean = tile()
    anomalous = [sample for sample in clean.test_samples if sample.label]
    assert (len(clean.train_samples), len(anomalous)) == (10, 3)
    dirty = tile(contamination=1 / 6)  # 2 of 12
    assert len(dirty.train_samples) == 12 and len(dirty.test_samples) == len(clean.test_samples) - 2
    moved = names(dirty.train_samples) - names(clean.train_samples)
    assert moved == names(clean.test_samples) - names(dirty.test_samples) <= names(anomalous)
    assert all(sample.label == 0 and sample.mask is None for sample in dirty.train_samples)
    assert dirty.has_masks and dirty.facts["n_train"] == 12
    less = tile(contamination=1 / 11)
    assert names(less.train_samples) < names(dirty.train_samples)
    assert tile(contamination=1 / 6, seed=5).train_samples == dirty.train_samples
    assert tile(contamination=0.01).train_samples == clean.train_samples  # less than half an image


def test_a_study_of_contamination_tests_the_same_images(tile):
    levels = [tile(contamination=share, max_contamination=1 / 6) for share in (0.0, 1 / 11, 1 / 6)]
    assert [len(data.train_samples) for data in levels] == [10, 11, 12]
    assert (
        levels[0].test_samples
        == levels[1].test_samples
        == levels[2].test_samples
        == tile(contamination=1 / 6).test_samples
    )
    assert all(not names(data.train_samples) & names(data.test_samples) for data in levels)


def test_validation_and_calibration_are_contaminated_too(tile):
    data = tile(contamination=1 / 6, val_fraction=0.5)  # 1 among 5 each
    kinds = [[sample.kind for sample in part] for part in (data.train_samples, data.val_samples)]
    assert [(len(part), sum(kind != "good" for kind in part)) for part in kinds] == [(6, 1), (6, 1)]


def test_more_contamination_than_there_are_anomalous_images_names_the_largest_share(tile):
    with pytest.raises(
        UserError, match=r"dataset.contamination=0.4: 10 normal .* the test of .* has 3, .* is 0.166; with fewer"
    ):
        tile(contamination=0.4)
    tile(contamination=0.166)
    tile(contamination=0.3, train_fraction=0.5)  # 2 of 7
