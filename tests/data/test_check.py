"""`python -m kdad.data.check`: what it counts, what it finds wrong, and what it leaves alone."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from kdad.data import check
from tests.layouts import LAYOUTS, N_ANOMALOUS, N_NORMAL, N_TRAIN, N_VALIDATION, SIDE, save

pytestmark = pytest.mark.slow  # processes of their own, or many seconds


@pytest.fixture
def checked(tmp_path, monkeypatch, capsys):
    """checked(name, "key=value", ...) -> (exit status, table and remarks, errors), on the tiny copy of that layout."""

    def run(name: str, *overrides: str):
        root = tmp_path / name
        if not root.exists():
            LAYOUTS[name](root)
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        monkeypatch.setattr(sys, "argv", ["check", f"dataset={name}", f"dataset.root={root}", *overrides])
        capsys.readouterr()
        try:
            check.main()
            status = 0
        except SystemExit as error:
            status = error.code
        assert not list((tmp_path / "elsewhere").iterdir())
        return status, *capsys.readouterr()

    return run


def cells(printed: str) -> list[list[str]]:
    """The table's rows, cells divided by two blanks or more."""
    lines = [[cell for cell in line.strip().split("  ") if cell] for line in printed.splitlines()]
    return [[cell.strip() for cell in line] for line in lines if len(line) > 6][1:]


def test_a_row_for_each_split(checked):
    status, printed, _ = checked("mvtec3d")
    n_test, n_anomalous = N_NORMAL + 2 * N_ANOMALOUS, 2 * N_ANOMALOUS
    size = f"{SIDE} x {SIDE}"
    assert status == 0 and cells(printed) == [
        ["bagel", "train", f"{N_TRAIN}", "0", "0", size, "RGB", "0"],
        ["bagel", "validation", f"{N_VALIDATION}", "0", "0", size, "RGB", "0"],
        ["bagel", "test", f"{n_test}", f"{n_anomalous}", f"{n_anomalous}", size, "RGB", "0", "0"],
    ]
    assert f"bagel: {N_TRAIN} train images, officially 244; {N_VALIDATION} validation images, officially 22" in printed
    assert "officially 2,656 train, 294 validation, 1,197 test. Not here: cable_gland, carrot, " in printed


@pytest.mark.parametrize(
    ("category", "names"), [(None, {"01", "02", "03"}), ("all", {"01", "02", "03"}), ("02", {"02"})]
)
def test_all_categories_or_one(checked, category, names):
    _, printed, _ = checked("btad", *([f"category={category}"] if category else []))
    assert {row[0] for row in cells(printed)} == names
    assert ("In all" in printed) == (len(names) == 3)


def test_scenes_instead_of_their_sum(checked):
    status, printed, _ = checked("stc", "dataset.every=1")
    assert status == 0 and [row[:5] for row in cells(printed)] == [
        ["01", "train", "10", "0", "0"], ["01", "test", "11", "6", "6"],
        ["12", "train", "10", "0", "0"], ["12", "test", "11", "6", "6"],
    ]  # fmt: skip
    assert [row[0] for row in cells(checked("stc", "category=all")[1])] == ["all", "all"]


def test_mixed_sizes_and_modes_empty_masks_and_copies(checked, tmp_path):
    checked("mpdd")
    tubes = tmp_path / "mpdd/tubes"
    save(tubes / "train/good/000.png", np.zeros((40, 90), np.uint8))
    save(tubes / "train/good/001.png", np.zeros((30, 60), np.uint8))
    save(tubes / "ground_truth/anomalous/000_mask.png", np.zeros((SIDE, SIDE), np.uint8))
    shutil.copy(tubes / "train/good/003.png", tubes / "test/good/000.png")
    status, printed, _ = checked("mpdd")
    train, test = cells(printed)
    assert status == 0 and train[5:7] == [f"60-90 x 30-{SIDE}", "L, RGB"]
    assert test[4] == f"{N_ANOMALOUS} (1 empty)" and test[-1] == "1"
    assert f"the first is {tubes / 'test/good/000.png'}, of {tubes / 'train/good/003.png'}" in printed


@pytest.mark.parametrize(
    ("place", "split"),
    [("train/good/004.png", "train"), ("test/good/001.png", "test"), ("ground_truth/anomalous/001_mask.png", "test")],
)
def test_an_unreadable_file_is_named_and_the_status_is_not_zero(checked, tmp_path, place, split):
    checked("mpdd")
    path = tmp_path / "mpdd/tubes" / place
    path.write_bytes(path.read_bytes()[:-30])
    status, printed, errors = checked("mpdd")
    assert status == 2 and "1 problem with mpdd" in errors and f"cannot read image {path}" in errors
    unreadable = {row[1]: row[7] for row in cells(printed)}
    assert unreadable == {"train": "0", "test": "0"} | {split: "1"}


def test_a_region_of_interest_beyond_pictures_is_told_of_and_one_outside_them_refused(checked, caplog):
    status, printed, _ = checked("mpdd", f"dataset.roi=[0,0,{SIDE},{SIDE + 1}]")
    assert status == 0 and len(caplog.records) == 1 and "reaches beyond the image" in caplog.text
    status, printed, errors = checked("mpdd", f"dataset.roi=[{SIDE},0,{SIDE + 9},9]")
    assert status == 2 and "lies outside the image" in errors and "more like the last" in errors


def test_a_missing_mask_and_one_of_another_size(checked, tmp_path):
    checked("mpdd")
    truth = tmp_path / "mpdd/tubes/ground_truth/anomalous"
    (truth / "000_mask.png").unlink()
    save(truth / "001_mask.png", np.zeros((SIDE, SIDE + 1), np.uint8))
    status, printed, errors = checked("mpdd")
    assert status == 2 and cells(printed)[1][4] == "0" and cells(printed)[1][7] == "2"
    assert f"no mask {truth / '000_mask.png'}" in errors and "they must have the same size" in errors


def test_a_category_that_cannot_be_read_does_not_hide_the_others(checked, tmp_path):
    checked("btad")
    (tmp_path / "btad/02/train/ko").mkdir()
    shutil.rmtree(tmp_path / "btad/03/test")
    status, printed, errors = checked("btad")
    assert status == 2 and [row[:3] for row in cells(printed)[2:]] == [["03", "train", "8"], ["03", "test", "0"]]
    assert "02/train/ko: training images are normal ones" in errors
    assert f"03: no test images in {tmp_path / 'btad'}. Expected: <category>/train/ok" in errors


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["category=nothing"], "no category nothing"),
        (["dataset.root=/nowhere"], "no folder /nowhere"),
        (["+dataset.rot=3"], "dataset.rot: kdad.data.MVTec takes no such argument"),
    ],
)
def test_what_cannot_be_checked(checked, overrides, message):
    status, _, errors = checked("mpdd", *overrides)
    assert status == 2 and message in errors


def test_masks_that_are_all_missing_are_remarked_upon(checked, tmp_path):
    checked("mpdd")
    shutil.rmtree(tmp_path / "mpdd/tubes/ground_truth")
    status, printed, _ = checked("mpdd")
    assert status == 0 and f"tubes: no folder {tmp_path / 'mpdd/tubes/ground_truth'}: image metrics only" in printed
    assert "image metrics only" not in checked("mpdd", "dataset.masks=null")[1]


def test_saturation_thresholds_are_checked_too(checked, tmp_path):
    status, printed, _ = checked("mvtec_loco")
    assert status == 0 and "sPRO" not in printed
    file = next((tmp_path / "mvtec_loco").rglob("defects_config.json"))
    kept = file.read_text()
    file.write_text('[{"pixel_value": 7}]')
    status, _, said = checked("mvtec_loco")
    assert status == 2 and f"{file}, entry 0" in said
    file.write_text("[]")
    assert checked("mvtec_loco")[0] == 2  # a mask has a value that it does not name
    file.unlink()
    status, printed, _ = checked("mvtec_loco")
    assert status == 0 and f"no saturation thresholds {file}: without sPRO" in " ".join(printed.split())
    file.write_text(kept)


def test_a_key_that_is_wrong_for_every_file_is_said_three_times(checked, tmp_path):
    status, _, said = checked("mpdd", "dataset.page=3")
    assert status == 2 and said.count("dataset.page=3: image") == 3 and "more like the last" in said


def test_neither_a_network_is_loaded_nor_the_packages_of_other_data_sets(tmp_path):
    LAYOUTS["mpdd"](tmp_path / "mpdd")
    code = """if True:
        import sys, kdad.data
        kdad.data.MVTec
        assert not {"pandas", "skimage", "kdad.data.elpv"} & set(sys.modules)
        from kdad.data.check import main
        main()
        assert not {"timm", "kdad.models"} & set(sys.modules)"""
    command = [sys.executable, "-c", code, "dataset=mpdd", f"dataset.root={tmp_path / 'mpdd'}"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"COLUMNS": "90"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tubes" in done.stdout
