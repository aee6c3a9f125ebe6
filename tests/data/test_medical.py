import shutil
from collections import Counter

import pytest

from kdad.data import BrainMRI, HeadCT, RetinalOCT
from kdad.errors import UserError
from tests.one_class import write_brain_mri, write_head_ct, write_retinal_oct


def checked(layout, values):
    data = layout(**values)
    data.check()
    return data


def refusal(layout, values) -> str:
    with pytest.raises(UserError) as caught:
        checked(layout, values)
    return str(caught.value)


def names(samples) -> list[str]:
    return [sample.path.name for sample in samples]


def test_head_ct(tmp_path, options):
    """Of 30 images the first 15 have a hemorrhage; ten of the others are for the test."""
    write_head_ct(tmp_path / "flat", n=30)
    data = checked(HeadCT, options(tmp_path / "flat"))
    assert data.category == "all" and data.facts["n_train"] == 5
    assert Counter(sample.kind for sample in data.test_samples) == {"normal": 10, "hemorrhage": 15}
    assert all(int(sample.path.stem) >= 15 for sample in data.train_samples)
    assert all((int(sample.path.stem) < 15) == (sample.label == 1) for sample in data.test_samples)
    write_head_ct(tmp_path / "around", around="head_ct", n=30)  # as Kaggle's archive has it
    assert names(checked(HeadCT, options(tmp_path / "around")).test_samples) == names(data.test_samples)
    other = checked(HeadCT, options(tmp_path / "flat", split_seed=1))
    assert names(other.train_samples) != names(data.train_samples)
    assert names(checked(HeadCT, options(tmp_path / "flat", seed=1)).train_samples) == names(data.train_samples)
    assert checked(HeadCT, options(tmp_path / "flat", n_normal_test=3)).facts["n_train"] == 12


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("id, bleeding\n0,1\n", "columns id and hemorrhage"),
        ("id, hemorrhage\nzero,1\n", "cannot read"),
        ("id, hemorrhage\n0,2\n", "hemorrhage should be 0 or 1; found \\[2\\]"),
        ("id, hemorrhage\n0,1\n99,0\n", "no image 099 in"),
        ("id, hemorrhage\n0,1\n0,0\n", "no image 000 in .* or two rows of that id"),
        ("id, hemorrhage\n0,1\n", "no row for 15 images in .*001.png"),
        ("", "cannot read"),
    ],
)
def test_head_ct_with_a_bad_table(tmp_path, options, table, message):
    write_head_ct(tmp_path)
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(UserError, match=message) as caught:
        checked(HeadCT, options(tmp_path))
    assert str(tmp_path / "labels.csv") in str(caught.value)


def test_a_missing_table_and_too_few_normal_images(tmp_path, options):
    write_head_ct(tmp_path)
    assert "8 normal images" in refusal(HeadCT, options(tmp_path))
    (tmp_path / "labels.csv").unlink()
    assert str(tmp_path / "labels.csv") in refusal(HeadCT, options(tmp_path))
    assert "n_normal_test is 0" in refusal(HeadCT, options(tmp_path, n_normal_test=0))


def test_brain_mri(tmp_path, options):
    write_brain_mri(tmp_path)
    data = checked(BrainMRI, options(tmp_path))
    assert (data.facts["n_train"], data.facts["n_test"]) == (4, 15)
    assert Counter(sample.kind for sample in data.test_samples) == {"normal": 10, "tumour": 5}
    shutil.rmtree(tmp_path / "yes")
    assert str(tmp_path / "yes") in refusal(BrainMRI, options(tmp_path))


def test_brain_mri_in_the_folder_of_its_archive(tmp_path, options):
    write_brain_mri(tmp_path / "plain")
    write_brain_mri(tmp_path / "wrapped/brain_tumor_dataset")
    plain, wrapped = (checked(BrainMRI, options(tmp_path / name)) for name in ("plain", "wrapped"))
    assert [s.path.name for s in plain.test_samples] == [s.path.name for s in wrapped.test_samples]
    assert len(plain.test_samples) == 15


@pytest.mark.parametrize(("layout", "write"), [(HeadCT, write_head_ct), (BrainMRI, write_brain_mri)])
def test_official_counts_are_those_of_ten_normal_test_images(tmp_path, options, layout, write, caplog):
    write(tmp_path)
    official = {"all": {"train": 99}}
    checked(layout, options(tmp_path, official=official, n_normal_test=3))
    assert not caplog.records
    if layout is BrainMRI:
        checked(layout, options(tmp_path, official=official))
        assert "4 train images, officially 99" in caplog.text


@pytest.mark.parametrize("around", ["", "OCT2017 ", "oct2017/OCT2017_"])
def test_retinal_oct_trains_on_its_normal_training_images_alone(tmp_path, options, around):
    write_retinal_oct(tmp_path, around)
    data = checked(RetinalOCT, options(tmp_path))
    assert {sample.path.parent for sample in data.train_samples} == {tmp_path / around / "train/NORMAL"}
    assert data.facts == {"n_train": 6, "n_val": 0, "n_test": 12, "n_duplicates": 0}
    assert Counter((s.kind, s.label) for s in data.test_samples) == {
        ("NORMAL", 0): 3, ("CNV", 1): 3, ("DME", 1): 3, ("DRUSEN", 1): 3,
    }  # fmt: skip
    assert {sample.path.parent.parent.name for sample in data.test_samples} == {"test"}
    shutil.rmtree(tmp_path / around / "test/DME")
    assert str(tmp_path / around / "test/DME") in refusal(RetinalOCT, options(tmp_path))


@pytest.mark.parametrize("layout", [HeadCT, BrainMRI, RetinalOCT])
def test_missing_root(tmp_path, options, layout):
    message = refusal(layout, options(tmp_path / "nowhere"))
    for part in (str(tmp_path / "nowhere"), layout.layout, "dataset.root=", layout.obtain):
        assert part in message


def test_real_brain_mri(kdad_data, options):
    data = checked(BrainMRI, options(kdad_data / "brain_mri"))
    assert (data.facts["n_train"], data.facts["n_test"]) == (88, 165)
    assert Counter(sample.label for sample in data.test_samples) == {0: 10, 1: 155}
