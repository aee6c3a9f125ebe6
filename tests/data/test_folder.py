"""One's own pictures: what is read from which folder, and what is refused."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kdad.data import Folder
from kdad.errors import UserError

SIDE = 16


@pytest.fixture
def root(tmp_path, save) -> Path:
    """normal: 10 of mixed suffixes; scratch: 2, dent: 1; masks by kind, in two ways to name them."""
    rng, root = np.random.default_rng(0), tmp_path / "pictures"

    def picture(name: str) -> None:
        save(root / name, rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))

    for i, suffix in enumerate(["png", "jpg", "JPEG", "bmp", "tif", "webp", "png", "png", "PNG", "jpg"]):
        picture(f"normal/{i:03}.{suffix}")
    for name in ("scratch/000.jpg", "scratch/001.png", "dent/000.bmp"):
        picture(name)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:12] = 255
    for name in ("scratch/000.png", "scratch/001_mask.bmp", "dent/000_mask.TIF"):
        save(root / "masks" / name, mask)
    return root


@pytest.fixture
def folder(root, options):
    def build(place: Path = root, **changes) -> Folder:
        return Folder(**options(place, name="mine", **({"anomalous": ["scratch", "dent"]} | changes)))

    return build


def checked(data: Folder) -> Folder:
    data.check()
    return data


def refusal(data: Folder) -> str:
    with pytest.raises(UserError) as caught:
        data.check()
    return str(caught.value)


def test_folders_that_no_key_names_are_told_of(folder, caplog):
    """A kind that was forgotten, or the masks, would be missed nowhere else."""
    checked(folder(anomalous=["scratch"]))
    assert "folders of images that no key names: dent, masks" in caplog.text
    caplog.clear()
    checked(folder(masks="masks"))
    assert "no key names" not in caplog.text


def names(samples) -> list[str]:
    return [sample.path.name for sample in samples]


# What is read


def test_what_is_trained_on_and_tested(folder, root):
    data = checked(folder())
    assert data.facts == {"n_train": 8, "n_val": 0, "n_test": 5, "n_duplicates": 0}
    assert Counter((s.label, s.kind) for s in data.test_samples) == {(0, "good"): 2, (1, "scratch"): 2, (1, "dent"): 1}
    assert all(sample.path.parent == root / "normal" and sample.label == 0 for sample in data.train_samples)
    assert data.categories() == ["all"] and data.category == "all" and not data.has_masks
    assert data.test_samples == sorted(data.test_samples)
    one = checked(folder(anomalous="dent"))
    assert {sample.kind for sample in one.test_samples} == {"good", "dent"}
    assert {sample.label for sample in checked(folder(anomalous=None)).test_samples} == {0}


def test_all_suffixes_are_decoded(folder):
    data = folder(masks="masks", val_fraction=0.2)
    data.setup()
    sizes = [len(batch["index"]) for batch in data.train_dataloader()]
    held_out = sum(not sample.label for sample in data.test_samples)
    assert sum(sizes) == data.facts["n_train"] and data.facts["n_train"] + data.facts["n_val"] + held_out == 10
    regions = [int(mask.sum()) for batch in data.test_dataloader() for mask in batch["mask"]]
    assert regions == [32 if sample.label else 0 for sample in data.test_samples]


def test_held_out_images_depend_on_split_seed_and_names_only(folder, root):
    def held_out(*place: Path, **changes) -> list[str]:
        return names(s for s in checked(folder(*place, test_fraction=0.3, **changes)).test_samples if not s.label)

    first = held_out()
    train = names(checked(folder(test_fraction=0.3)).train_samples)
    assert 1 <= len(first) <= 6 and sorted(first + train) == sorted(path.name for path in (root / "normal").iterdir())
    shutil.copytree(root, root.parent / "elsewhere")
    assert first == held_out(seed=7) == held_out(train_fraction=0.5) == held_out(root.parent / "elsewhere")
    assert held_out(split_seed=1) != first
    assert checked(folder(test_fraction=0)).facts["n_train"] == 10
    assert "no training images" in refusal(folder(test_fraction=1))


def test_normal_test_leaves_all_of_normal_to_train(folder, root):
    (root / "more").mkdir()
    shutil.move(root / "normal/000.png", root / "more/000.png")
    data = checked(folder(normal_test="more"))
    assert data.facts["n_train"] == 9 and [s.path for s in data.test_samples if not s.label] == [root / "more/000.png"]
    assert checked(folder(normal=["normal", "more"], test_fraction=0)).facts["n_train"] == 10


def test_absolute_folders_need_no_root(folder, root):
    data = checked(folder(root / "nowhere", normal=str(root / "normal"), anomalous=[root / "scratch"]))
    assert data.facts["n_train"] + data.facts["n_test"] == 10 + 2
    shutil.move(root, root.parent / "moved")
    moved = root.parent / "moved"
    again = checked(folder(moved / "nowhere", normal=str(moved / "normal"), anomalous=[moved / "scratch"]))
    assert names(again.train_samples) == names(data.train_samples) and again.fingerprint == data.fingerprint


def test_no_image_changes_sides_when_the_folder_grows(folder, root, save):
    """Trained on stays trained on, validated stays validated, tested stays tested, whatever comes beside them."""
    rng = np.random.default_rng(1)
    for i in range(40):
        save(root / f"normal/first{i}.png", rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))

    def parts():
        data = checked(folder(val_fraction=0.2))
        return [set(names(s)) for s in (data.train_samples, data.val_samples, data.test_samples)], data.fingerprint

    (train, val, test), before = parts()
    for i in range(100):
        save(root / f"normal/later{i}.png", rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    grown, after = parts()
    assert train < grown[0] and val < grown[1] and test < grown[2] and before != after
    # 150 images: a share of each part, as far as chance goes.
    assert 0.5 < len(grown[0]) / 150 < 0.78 and 12 <= len(grown[1]) <= 40 and 18 <= len(grown[2]) - 3 <= 45


def test_each_side_of_a_split_has_an_image(folder, root):
    for path in sorted((root / "normal").iterdir())[2:]:
        path.unlink()
    for seed in range(8):
        data = checked(folder(split_seed=seed))
        assert data.facts["n_train"] == 1 and sum(not s.label for s in data.test_samples) == 1


def test_a_folder_called_by_a_number(folder, root):
    (root / "scratch").rename(root / "1")
    assert {sample.kind for sample in checked(folder(anomalous=[1, "dent"])).test_samples} == {"good", "1", "dent"}


def test_masks_without_folders_of_kinds(folder, root):
    shutil.move(root / "masks/scratch/000.png", root / "masks/000.png")
    shutil.move(root / "masks/scratch/001_mask.bmp", root / "masks/001_mask.bmp")
    (root / "masks/scratch").rmdir()
    masks = {s.path: s.mask for s in checked(folder(masks="masks")).test_samples if s.label}
    assert masks == {
        root / "scratch/000.jpg": root / "masks/000.png",
        root / "scratch/001.png": root / "masks/001_mask.bmp",
        root / "dent/000.bmp": root / "masks/dent/000_mask.TIF",
    }


# What is refused


def test_missing_root_says_what_to_do(folder, tmp_path):
    message = refusal(folder(tmp_path / "nowhere"))
    for part in (str(tmp_path / "nowhere"), "dataset.root=<folder>", "dataset.normal=", Folder.layout):
        assert part in message


@pytest.mark.parametrize(
    ("key", "value"), [("normal", "nromal"), ("normal_test", "held_out"), ("anomalous", ["dent", "x"])]
)
def test_missing_folder_is_named_with_its_key_and_the_others_are_listed(folder, root, key, value):
    message = refusal(folder(**{key: value}))
    missing = root / (value[-1] if isinstance(value, list) else value)
    assert f"dataset.{key}: no folder {missing}. {root} has: dent, masks, normal, scratch" in message


def test_a_name_that_a_comma_has_cut_in_two_is_given_quoted(folder, root):
    (root / "dent").rename(root / "dent, light")
    message = refusal(folder(anomalous=["scratch", "dent", "light"], masks=None))
    assert """a name with a comma has quotes of its own: 'dataset.anomalous=["dent, light"]'""" in message
    assert "quotes of its own" not in refusal(folder(anomalous=["rust"], masks=None))


def test_missing_folder_of_masks(folder, root):
    assert f"dataset.masks: no folder {root / 'truth'}" in refusal(folder(masks="truth"))


def test_folder_without_images_points_to_those_below(folder, root):
    (root / "test").mkdir()
    assert f"dataset.anomalous: no images in {root / 'test'}" in refusal(folder(anomalous="test"))
    shutil.move(root / "scratch", root / "test/scratch")
    assert str(root / "test/scratch") in refusal(folder(anomalous="test"))


def test_no_normal_folder(folder):
    with pytest.raises(UserError, match="dataset.normal"):
        folder(normal=[])


def test_other_kinds_in_the_training_folder_are_named(folder, root):
    for kind in ("good", "scratch"):
        shutil.copytree(root / "normal", root / "train" / kind)
    for normal, others in {"train": ("good", "scratch"), "train/good": ("scratch",)}.items():
        message = refusal(folder(normal=normal))
        assert f"dataset.normal: {root / normal} " in message
        assert all(str(root / "train" / kind) in message for kind in others)
    shutil.copytree(root / "dent", root / "normal/deep/dent")
    assert str(root / "normal/deep/dent") in refusal(folder())


def test_folder_named_twice(folder, root):
    (root / "link").symlink_to(root / "normal")
    for changes in ({"anomalous": ["dent", "dent"]}, {"anomalous": "normal"}, {"normal_test": "link"}):
        assert f"{root}/" in refusal(folder(**changes)) and "named twice" in refusal(folder(**changes))
    message = refusal(folder(anomalous="normal"))
    assert "dataset.normal" in message and "dataset.anomalous" in message


def test_anomalous_folder_called_good(folder, root):
    (root / "dent").rename(root / "good")
    assert str(root / "good") in refusal(folder(anomalous="good"))


def test_missing_mask_lists_what_was_looked_for(folder, root):
    (root / "masks/scratch/001_mask.bmp").unlink()
    message = refusal(folder(masks="masks"))
    for part in (root / "scratch/001.png", "1 of 3", root / "masks/scratch/001_mask.*", ".jpeg", "dataset.masks=null"):
        assert str(part) in message


def test_two_masks_for_an_image(folder, root):
    path = root / "masks/scratch/000.png"
    shutil.copy(path, path.with_name("000_mask.png"))
    message = refusal(folder(masks="masks"))
    assert str(path) in message and str(root / "scratch/000.jpg") in message


def test_one_mask_for_two_images(folder, root):
    mask = root / "masks/000.png"
    shutil.move(root / "masks/scratch/000.png", mask)
    shutil.rmtree(root / "masks/scratch")
    shutil.rmtree(root / "masks/dent")
    shutil.move(root / "scratch/001.png", root / "normal")
    message = refusal(folder(masks="masks"))
    assert all(str(path) in message for path in (mask, root / "scratch/000.jpg", root / "dent/000.bmp"))


def test_images_are_no_masks(folder, root):
    assert f"dataset.masks: {root / 'scratch'} holds images" in refusal(folder(masks="."))


@pytest.mark.parametrize("value", [1.1, -0.1])
def test_test_fraction_out_of_range(folder, value):
    with pytest.raises(UserError, match="dataset.test_fraction"):
        folder(test_fraction=value)


@pytest.mark.parametrize("place", ["normal/001.jpg", "scratch/001.png", "masks/dent/000_mask.TIF"])
def test_damaged_file_is_refused_by_setup(folder, root, place):
    (root / place).write_bytes(b"no image")
    with pytest.raises(UserError, match=str(root / place)):
        folder(masks="masks").setup()


def test_mask_of_another_size_is_refused_by_setup(folder, root, save):
    path = save(root / "masks/scratch/000.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match=str(path)):
        folder(masks="masks").setup()


def test_one_normal_image(folder, root):
    for path in sorted((root / "normal").iterdir())[1:]:
        path.unlink()
    only = str(root / "normal/000.png")
    message = refusal(folder())
    assert only in message and "dataset.normal_test=<folder>" in message
    assert only in refusal(folder(test_fraction=0, val_fraction=0.2))
    assert checked(folder(test_fraction=0)).facts["n_train"] == 1
