"""Bad input is refused before anything is decoded or trained, with the path or key in the message."""

import shutil

import numpy as np
import pytest
from PIL import Image

from kdad.data import MTD, Demo, MVTec
from kdad.errors import UserError


def refusal(data) -> str:
    with pytest.raises(UserError) as caught:
        data.check()
    return str(caught.value)


@pytest.mark.parametrize("layout", [MVTec, MTD])
def test_missing_root_says_what_to_do(tmp_path, options, layout):
    data = layout(**options(tmp_path / "nowhere", name="some"))
    message = refusal(data)
    for part in (str(tmp_path / "nowhere"), "dataset.root=<folder>", "KDAD_DATA", data.obtain, data.layout):
        assert part in message


def test_relative_root_is_named_in_full(tmp_path, options, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path / "data/mvtec") in refusal(MVTec(**options("data/mvtec")))


def test_unknown_category_lists_all_and_names_the_nearest(mvtec_root, options):
    shutil.copytree(mvtec_root / "tile", mvtec_root / "screw")
    message = refusal(MVTec(**options(mvtec_root, category="scew")))
    assert "Did you mean screw?" in message and "screw, tile" in message and str(mvtec_root) in message
    assert "Did you mean" not in refusal(MVTec(**options(mvtec_root, category="zzz")))


def test_category_is_needed_where_there_is_no_default(mvtec_root, options):
    message = refusal(MVTec(**options(mvtec_root)))
    assert "category=" in message and "tile" in message


def test_a_folder_without_categories_is_refused(tmp_path, options):
    for layout in (MVTec, MTD):
        data = layout(**options(tmp_path, category="tile"))
        assert data.layout in refusal(data)


@pytest.mark.parametrize(("folder", "part"), [("train/good", "training"), ("test", "test")])
def test_no_images(mvtec_root, options, folder, part):
    for path in (mvtec_root / "tile" / folder).rglob("*.png"):
        path.unlink()
    assert f"no {part} images in {mvtec_root}" in refusal(MVTec(**options(mvtec_root, category="tile")))


def test_missing_mask_is_named_with_its_image(mvtec_root, options):
    mask = mvtec_root / "tile/ground_truth/scratch/001_mask.png"
    mask.unlink()
    message = refusal(MVTec(**options(mvtec_root, category="tile")))
    assert str(mask) in message and str(mvtec_root / "tile/test/scratch/001.png") in message and "1 of 2" in message


def test_training_folder_holds_normal_images_only(mvtec_root, options):
    (mvtec_root / "tile/train/scratch").mkdir()
    assert "train/scratch" in refusal(MVTec(**options(mvtec_root, category="tile")))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("val_fraction", 1.0), ("val_fraction", -0.1), ("train_fraction", 0), ("train_fraction", 1.1),
        ("image_size", 0), ("batch_size", 0),
    ],
)  # fmt: skip
def test_numbers_out_of_range(mvtec_root, options, key, value):
    with pytest.raises(UserError, match=key):
        MVTec(**options(mvtec_root, **{key: value}))


def test_max_train_out_of_range(tmp_path, options):
    with pytest.raises(UserError, match="max_train"):
        MTD(max_train=0, **options(tmp_path))


@pytest.mark.parametrize("place", ["train/good/003.png", "test/good/001.png", "ground_truth/scratch/000_mask.png"])
def test_damaged_file_is_refused_by_setup(mvtec_root, options, place):
    path = mvtec_root / "tile" / place
    path.write_bytes(path.read_bytes()[:60])
    data = MVTec(**options(mvtec_root, category="tile"))
    data.check()  # lists, does not decode
    with pytest.raises(UserError, match=str(path)):
        data.setup()


def test_grey_mask_is_refused_by_setup(mvtec_root, options, save):
    path = save(mvtec_root / "tile/ground_truth/scratch/000_mask.png", np.arange(320, dtype=np.uint8).reshape(16, 20))
    with pytest.raises(UserError, match=str(path)):
        MVTec(**options(mvtec_root, category="tile")).setup()


def keep_training_images(mvtec_root, n):
    for path in sorted((mvtec_root / "tile/train/good").iterdir())[n:]:
        path.unlink()


def test_one_training_image_leaves_none_for_validation(mvtec_root, options, caplog):
    keep_training_images(mvtec_root, 1)
    message = refusal(MVTec(**options(mvtec_root, category="tile", val_fraction=0.2)))
    path = str(mvtec_root / "tile/train/good/000.png")
    assert path in message and "val_fraction is 0.2" in message
    data = MVTec(**options(mvtec_root, category="tile"))
    data.setup()
    assert [len(batch["index"]) for batch in data.train_dataloader()] == [1]
    assert [record.message for record in caplog.records] == [f"data set tiny: one training image only, {path}"]


def test_batch_larger_than_the_data_is_one_smaller_batch(mvtec_root, options, caplog):
    keep_training_images(mvtec_root, 3)
    data = MVTec(**options(mvtec_root, category="tile", batch_size=32))
    data.check()
    data.setup()
    assert [len(batch["index"]) for batch in data.train_dataloader()] == [3]
    assert [len(batch["index"]) for batch in data.test_dataloader()] == [5]
    assert len(caplog.records) == 1 and "batch_size is 32 but there are 3 training images" in caplog.text


@pytest.mark.parametrize("val_fraction", [0.0, 0.5])
def test_copies_between_training_and_test_are_reported(mvtec_root, options, caplog, val_fraction):
    tile = mvtec_root / "tile"
    for original, copy in {"000": "good/000", "007": "scratch/001", "009": "good/002"}.items():
        shutil.copy(tile / f"train/good/{original}.png", tile / f"test/{copy}.png")
    data = MVTec(**options(mvtec_root, category="tile", val_fraction=val_fraction))
    data.check()
    assert data.facts["n_duplicates"] == 3
    record, both = caplog.records
    assert "3 of 5 test images" in record.message
    assert f"{tile / 'test/good/000.png'}, a copy of {tile / 'train/good/000.png'}" in record.message
    assert data.facts["n_normal_and_anomalous"] == 1
    assert "1 anomalous images are exact copies of normal images" in both.message
    assert f"{tile / 'test/scratch/001.png'}, a copy of {tile / 'train/good/007.png'}" in both.message


def test_a_picture_among_the_normal_and_the_anomalous_test_images_is_told(mvtec_root, options, caplog):
    test = mvtec_root / "tile/test"
    shutil.copy(test / "good/001.png", test / "scratch/001.png")
    data = MVTec(**options(mvtec_root, category="tile"))
    data.check()
    assert data.facts["n_normal_and_anomalous"] == 1 and data.facts["n_duplicates"] == 0
    assert f"{test / 'scratch/001.png'}, a copy of {test / 'good/001.png'}" in caplog.text


@pytest.mark.parametrize("name", ["{stem}.png", "{stem}.jpg", "{stem}_mask.bmp"])
def test_masks_of_another_name_are_advised(mvtec_root, options, name):
    """The override that the message gives is what works."""
    folder = mvtec_root / "tile/ground_truth/scratch"
    for mask in sorted(folder.iterdir()):
        Image.open(mask).save(folder / name.format(stem=mask.name.removesuffix("_mask.png")))
        mask.unlink()
    message = refusal(MVTec(**options(mvtec_root, category="tile")))
    assert f"ground_truth/{{kind}}/{name}" in message and "dataset.masks=" in message
    pattern = message.split('dataset.masks="')[1].split('"')[0]
    kind = "grey" if name.endswith("jpg") else "binary"
    data = MVTec(**options(mvtec_root, category="tile", masks=pattern, mask_kind=kind))
    data.check()
    assert data.has_masks


def test_an_image_of_too_many_pixels_names_the_key(mvtec_root, options, save):
    save(mvtec_root / "tile/train/good/large.png", np.zeros((1100, 1000), np.uint8))
    with pytest.raises(UserError, match="large.png has more than 1 million pixels.*dataset.max_megapixels"):
        MVTec(**options(mvtec_root, category="tile", max_megapixels=1)).setup()
    for enough in (1.2, None):
        MVTec(**options(mvtec_root, category="tile", max_megapixels=enough)).setup()
    with pytest.raises(UserError, match="dataset.max_megapixels=0: give a number"):
        MVTec(**options(mvtec_root, category="tile", max_megapixels=0))


def test_files_of_the_same_size_are_no_copies_unless_their_bytes_agree(mvtec_root, options, save, caplog):
    tile = mvtec_root / "tile"
    for i, place in enumerate(("train/good/a.bmp", "test/good/b.bmp")):
        save(tile / place, np.full((8, 8), i, np.uint8))
    assert (tile / "train/good/a.bmp").stat().st_size == (tile / "test/good/b.bmp").stat().st_size
    data = MVTec(**options(mvtec_root, category="tile"))
    data.check()
    assert data.facts["n_duplicates"] == 0 and not caplog.records


def test_demo_in_a_folder_that_cannot_be_written(tmp_path, options):
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file/demo") in refusal(Demo(**options(tmp_path / "file/demo")))
