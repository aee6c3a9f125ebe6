from collections import Counter

import pytest

from kdad.data import ELPV
from kdad.errors import UserError
from tests.one_class import write_elpv


@pytest.mark.parametrize(("category", "first"), [("mono", 1), ("poly", 27)])
def test_zero_is_normal_one_anomalous_and_what_is_between_left_out(tmp_path, options, category, first):
    write_elpv(tmp_path)
    data = ELPV(**options(tmp_path, category=category))
    data.check()
    assert data.categories() == ["mono", "poly"] and data.facts["n_train"] == 16
    assert Counter((s.kind, s.label) for s in data.test_samples) == {("functional", 0): 4, ("defective", 1): 4}
    samples = data.train_samples + data.test_samples
    assert {int(sample.path.stem.removeprefix("cell")): sample.label for sample in samples} == {
        first + i: int(i >= 20) for i in range(24)
    }


def test_split_and_share(tmp_path, options):
    write_elpv(tmp_path)

    def train(**changes):
        data = ELPV(**options(tmp_path, category="mono", **changes))
        data.check()
        return data.train_samples

    assert train() == train(seed=3) != train(split_seed=1)
    assert len(train(test_fraction=0.5)) == 10
    with pytest.raises(UserError, match="test_fraction is 1"):
        train(test_fraction=1)


@pytest.mark.parametrize("rows", ["images/cell0001.png 1.0\n", "images/cell0001.png 1.5 mono\n", "a,b,c\n", ""])
def test_a_bad_table(tmp_path, options, rows):
    (tmp_path / "labels.csv").write_text(rows)
    with pytest.raises(UserError, match=f"{tmp_path}.*labels.csv"):
        ELPV(**options(tmp_path, category="mono")).check()


def test_a_row_without_its_image(tmp_path, options):
    write_elpv(tmp_path)
    (tmp_path / "images/cell0003.png").unlink()
    with pytest.raises(UserError, match="cell0003.png"):
        ELPV(**options(tmp_path, category="mono")).check()


def test_without_the_package(options, monkeypatch):
    monkeypatch.setattr("kdad.data.elpv.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'kdad\\[elpv\\]'"):
        ELPV(**options(None, category="mono"))


def test_the_package(options):
    """Counts of elpv-dataset 1.0.0."""
    pytest.importorskip("elpv_dataset")
    for category, expected in {"mono": (588, 313), "poly": (920, 402)}.items():
        data = ELPV(**options(None, category=category))
        data.check()
        labels = Counter(sample.label for sample in data.train_samples + data.test_samples)
        assert (labels[0], labels[1]) == expected and data.facts["n_duplicates"] == 0
