from collections import Counter

import pytest
from torchvision import datasets

from kdad.data import Caltech256
from kdad.errors import UserError
from tests.one_class import write_caltech256


@pytest.fixture
def caltech(tmp_path, options):
    write_caltech256(tmp_path / "flat")

    def build(root="flat", **changes) -> Caltech256:
        data = Caltech256(**options(tmp_path / root, **changes))
        data.check()
        return data

    return build


def names(samples) -> list[str]:
    return [f"{sample.path.parent.name}/{sample.path.name}" for sample in samples]


def test_the_protocol(caltech):
    """Two categories of ten: four inliers to test, sixteen to train, and as many outliers as inliers in the test."""
    data = caltech(n_categories=2)
    assert (data.facts["n_train"], data.facts["n_test"]) == (16, 8)
    assert Counter(sample.label for sample in data.test_samples) == {0: 4, 1: 4}
    inliers = {sample.path.parent.name for sample in data.train_samples}
    assert len(inliers) == 2 and "257.clutter" not in inliers
    for sample in data.test_samples:
        assert (sample.path.parent.name == "257.clutter") == (sample.label == 1)
        assert sample.label == 1 or sample.path.parent.name in inliers
    assert not set(data.train_samples) & set(data.test_samples) and data.test_samples == sorted(data.test_samples)


def test_the_draw_is_split_seeds_alone(caltech, tmp_path):
    drawn = {seed: {s.path.parent.name for s in caltech(split_seed=seed).train_samples} for seed in range(12)}
    assert all(len(inliers) == 1 for inliers in drawn.values())
    assert set().union(*drawn.values()) == {"001.ak47", "002.american-flag", "003.backpack", "004.baseball-bat"}
    assert names(caltech(seed=5).test_samples) == names(caltech().test_samples)
    write_caltech256(tmp_path / "around", around="caltech256")  # as torchvision unpacks it
    assert names(caltech("around").test_samples) == names(caltech().test_samples)


def test_its_values(caltech):
    named = caltech(category="003.backpack", n_categories=3)
    assert {sample.path.parent.name for sample in named.train_samples} == {"003.backpack"}
    assert named.categories() == ["all", "001.ak47", "002.american-flag", "003.backpack", "004.baseball-bat"]
    few = caltech(category="001.ak47", max_per_category=5)
    inliers = [sample for sample in few.train_samples + few.test_samples if sample.label == 0]
    assert sorted(sample.path.name for sample in inliers) == [f"001_{i:04d}.jpg" for i in range(1, 6)]
    assert Counter(s.label for s in caltech(test_fraction=0.3, anomalous_fraction=0.25).test_samples) == {0: 3, 1: 1}
    assert len(caltech(max_per_category=None, n_categories=4, test_fraction=0.1).train_samples) == 36


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_categories": 5}, "has 4 categories"),
        ({"n_categories": 0}, "n_categories is 0"),
        ({"max_per_category": 0}, "max_per_category is 0"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0"),
        ({"anomalous_fraction": 0}, "anomalous_fraction is 0"),
        ({"n_categories": 4, "anomalous_fraction": 0.6}, "takes 12 outliers beside 8 inliers, but .*257.clutter has 8"),
        ({"max_per_category": 2}, "2 inliers in .* would leave 2 to train on and 0 to test"),
        ({"category": "003.backpak"}, "Did you mean 003.backpack"),
        ({"root": "nowhere"}, "Expected there: 256_ObjectCategories.*dataset.download=true"),
    ],
)
def test_refusals(caltech, changes, message):
    with pytest.raises(UserError, match=message):
        caltech(**changes)


def test_official_counts_are_of_all_there_is_to_draw_from(caltech, caplog):
    official = {"all": {"train": 40, "test": 827}}
    caltech(official=official, category="001.ak47")
    assert not caplog.records
    caltech(official=official)
    (record,) = caplog.records
    assert record.message == "data set tiny, category all: 8 test images to draw from, officially 827"


def test_download_goes_through_torchvision(tmp_path, options, monkeypatch):
    monkeypatch.setattr(datasets.Caltech256, "download", lambda self: write_caltech256(tmp_path / "new", "caltech256"))
    Caltech256(**options(tmp_path / "new", download=True)).check()

    def offline(self):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.Caltech256, "download", offline)
    Caltech256(**options(tmp_path / "new", download=True)).check()  # it is there
    with pytest.raises(UserError, match="downloading into .*other failed: no route to host"):
        Caltech256(**options(tmp_path / "other", download=True)).check()
