"""A data set of a class from outside the package: the least it needs, and what is said of one that lacks it."""

import pytest

from kdad.data.base import AnomalyDataModule
from kdad.data.samples import Sample
from kdad.errors import UserError


class Least(AnomalyDataModule):
    """One method alone: no categories, no text for messages."""

    def find_samples(self):
        tile = self.root / "tile"
        train = [Sample(path, 0, "good") for path in sorted(tile.glob("train/good/*.png"))]
        good = [Sample(path, 0, "good") for path in sorted(tile.glob("test/good/*.png"))]
        return train, good + [Sample(path, 1, "scratch") for path in sorted(tile.glob("test/scratch/*.png"))]


class Empty(AnomalyDataModule):
    """Nothing at all."""


class Lines(AnomalyDataModule):
    def categories(self):
        return ["left", "right"]


def test_one_method_is_enough(mvtec_root, options):
    data = Least(**options(mvtec_root))
    assert data.categories() == ["all"]
    data.check()
    assert data.category == "all" and not data.has_masks
    assert (len(data.train_samples), len(data.test_samples)) == (10, 5)
    data.setup()
    assert next(iter(data.train_dataloader()))["image"].shape == (4, 3, 8, 8)


def test_a_missing_method_is_named(mvtec_root, options):
    for build in (Empty, Lines):
        with pytest.raises(UserError, match=rf"data set tiny: the class {build.__name__} has no method find_samples"):
            build(**options(mvtec_root, category=None if build is Empty else "left")).check()


def test_a_missing_folder_and_category_are_said_without_any_text_of_the_class(mvtec_root, options):
    with pytest.raises(UserError, match="no folder .*/nowhere. dataset.root=.* what find_samples"):
        Least(**options(mvtec_root / "nowhere")).check()
    with pytest.raises(UserError, match="category=<name> is needed, one of left, right"):
        Lines(**options(mvtec_root)).check()
    with pytest.raises(UserError, match="no category righ .*Did you mean right"):
        Lines(**options(mvtec_root, category="righ")).check()


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (lambda path: [Sample(path, 0, "good")], r"two lists of Sample.* It returned \[Sample"),
        (lambda path: None, "It returned None"),
        (lambda path: ([path], []), "with a Path, and a label that is 0 or 1. It has PosixPath"),
        (lambda path: ([Sample(str(path), 0, "good")], []), "with a Path, .* It has Sample"),
        (lambda path: ([Sample(path, "good", "good")], []), "a label that is 0 or 1"),
        (lambda path: ([], [Sample(path, 1, "bad", str(path))]), "with a Path of the mask, or None"),
        (lambda path: ([Sample(path, 1, "bad")], []), "has one that is anomalous: .*a.png"),
    ],
)
def test_what_is_no_list_of_samples_is_refused(mvtec_root, options, monkeypatch, listed, said):
    monkeypatch.setattr(Least, "find_samples", lambda self: listed(self.root / "a.png"))
    with pytest.raises(UserError, match=f"Least.find_samples.* must return .*{said}"):
        Least(**options(mvtec_root)).check()
