"""One's own pictures as they lie: folders within folders, and lists of files; what is read, and what is refused."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kdad.data import Folder
from kdad.data.listed import read_list
from kdad.errors import UserError

SIDE = 16


@pytest.fixture
def root(tmp_path, save) -> Path:
    """Normal pictures in two days' folders, anomalous ones by kind and day, one right in the folder; masks alike."""
    rng, root = np.random.default_rng(0), tmp_path / "pictures"
    normal = [f"normal/{day}/{i}.png" for day in ("monday", "tuesday/late") for i in range(5)]
    for name in (*normal, "bad/scratch/monday/0.png", "bad/scratch/tuesday/0.png", "bad/dent/7.png", "bad/8.png"):
        save(root / name, rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:12] = 255
    for name in ("scratch/monday/0.png", "scratch/tuesday/0_mask.png", "7.png", "8.png"):
        save(root / "truth" / name, mask)
    return root


@pytest.fixture
def folder(root, options):
    def build(**changes) -> Folder:
        return Folder(**options(root, name="mine", **changes))

    return build


@pytest.fixture
def listed(root, folder):
    """listed(*lines, **options) -> the data set of a list of these lines; `lists/all.csv` in the pictures' folder."""

    def build(*lines: str, **changes) -> Folder:
        path = root / "lists/all.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder(**({"list": "lists/all.csv"} | changes))

    return build


def refusal(data: Folder) -> str:
    with pytest.raises(UserError) as caught:
        data.check()
    return str(caught.value)


def below(root: Path, samples) -> list[str]:
    return sorted(sample.path.relative_to(root).as_posix() for sample in samples)


NORMAL = [f"../normal/{day}/{i}.png" for day in ("monday", "tuesday/late") for i in range(5)]


# Folders within folders


def test_nested_folders_give_kinds_by_the_first_folder_below(folder, root):
    data = folder(recursive=True, anomalous="bad")
    data.check()
    anomalous = [sample for sample in data.test_samples if sample.label]
    assert Counter(sample.kind for sample in anomalous) == {"scratch": 2, "dent": 1, "bad": 1}
    seen = data.train_samples + [sample for sample in data.test_samples if not sample.label]
    assert len(seen) == 10 and {sample.path.parent.name for sample in seen} == {"monday", "late"}


def test_masks_of_nested_folders_mirror_them(folder, root):
    data = folder(recursive=True, anomalous="bad", masks="truth")
    data.check()
    found = {s.path.relative_to(root).as_posix(): s.mask for s in data.test_samples if s.label}
    assert {name: mask.relative_to(root).as_posix() for name, mask in found.items()} == {
        "bad/scratch/monday/0.png": "truth/scratch/monday/0.png",
        "bad/scratch/tuesday/0.png": "truth/scratch/tuesday/0_mask.png",
        "bad/dent/7.png": "truth/7.png",
        "bad/8.png": "truth/8.png",
    }


def test_nested_folders_are_only_read_on_request(folder, root):
    assert "dataset.recursive=true" in refusal(folder(anomalous=["bad/dent"], normal="bad/scratch"))
    assert "dataset.recursive=true" in refusal(folder(normal="normal/monday", anomalous="bad"))


@pytest.mark.parametrize("changes", [{"normal": ".", "anomalous": "bad"}, {"anomalous": "bad", "masks": "bad/truth"}])
def test_folders_within_each_other_are_refused(folder, root, changes):
    shutil.copytree(root / "truth", root / "bad/truth")
    assert f"lies below {root}" in refusal(folder(recursive=True, **changes))


def test_good_pictures_among_nested_anomalous_ones_are_refused(folder, root):
    shutil.copytree(root / "normal/monday", root / "bad/good")
    assert str(root / "bad/good") in refusal(folder(recursive=True, anomalous="bad"))


# Lists


def test_a_list_with_parts_is_taken_at_its_word(listed, root):
    lines = [f"{name},0,,{'validation' if name.endswith('4.png') else 'train'}," for name in NORMAL[:-1]]
    data = listed(
        "path,label,mask,split,kind", *lines, "../normal/tuesday/late/4.png,normal,,test,",
        "../bad/dent/7.png,1,../truth/7.png,test,dent", "../bad/8.png,Anomalous,../truth/8.png,Test,",
    )  # fmt: skip
    data.setup()
    assert data.facts == {"n_train": 8, "n_val": 1, "n_test": 3, "n_duplicates": 0} | {
        f"n_{key}_masks": 0 for key in ("vanished", "nonbinary", "large", "outside", "empty")
    }
    assert below(root, data.val_samples) == ["normal/monday/4.png"]
    assert {(s.path.name, s.label, s.kind) for s in data.test_samples} == {
        ("4.png", 0, "good"), ("7.png", 1, "dent"), ("8.png", 1, "anomalous")
    }  # fmt: skip
    masks = data.splits["test"].masks.flatten(1).sum(1).tolist()  # 8 x 8: half of each is marked
    assert sorted(masks) == [0, 32, 32]


def test_a_list_without_parts_splits_as_folders_do(listed, folder, root):
    """The same pictures in a list and in folders: the same are held out, so that one may move from one to the other."""
    data = listed("path,label", *(f"{name},0" for name in NORMAL), "../bad/8.png,1", val_fraction=0.3)
    data.check()
    same = folder(recursive=True, anomalous="bad", val_fraction=0.3)
    same.check()
    assert data.train_samples == same.train_samples and data.val_samples == same.val_samples
    assert [s for s in data.test_samples if not s.label] == [s for s in same.test_samples if not s.label]
    alone = listed("path,label", *(f"{name},0" for name in NORMAL), test_fraction=0)
    alone.check()
    assert len(alone.train_samples) == 10 and not alone.test_samples


def test_lists_as_spreadsheets_write_them(listed, root):
    """Semicolons, a byte order mark, quotes, blanks, capitals, empty lines and columns of the user's own."""
    (root / "a, b.png").write_bytes((root / "bad/8.png").read_bytes())
    data = listed(
        "\ufeffPath; Label ;operator", *(f'"{name}";normal;me' for name in NORMAL), "", ";;", "../a, b.png;1;you"
    )
    data.check()
    assert below(root, data.test_samples)[0] == "a, b.png" and len(data.train_samples) + len(data.test_samples) == 11


BAD = {
    "../normal/nowhere.png,0,,train,": "line 4: path ../normal/nowhere.png: no file",
    "../normal/../normal/monday/0.png,0,,test,": "line 4: .* stands in line 2 already",
    "../bad/8.png,1,,train,": "line 4: .*8.png is anomalous, but its split is train",
    "../bad/8.png,1,,validation,": "line 4: .*8.png is anomalous, but its split is validation",
    "../bad/8.png,broken,,test,": "line 4: label broken: give 0 or normal, 1 or anomalous",
    "../bad/8.png,,,test,": "line 4: label is empty",
    "../bad/8.png,1,,val,": "line 4: split val: give train, validation, test",
    "../bad/8.png,1,,,": "line 4: split is empty",
    "../bad/8.png,1,../truth/x.png,test,": "line 4: mask ../truth/x.png: no file",
    "../bad/8.png,1,,test,good": "line 4: .*8.png is anomalous, but of the kind good",
    "../bad/8.png,0,,test,dent": "line 4: .*8.png is normal, but of the kind dent",
    "../bad/8.png,0,../truth/8.png,test,": "line 4: .*8.png is normal, but has the mask",
    "../bad/8.png,1,test": "line 4: 3 cells, but the head names 5 columns",
    ",1,,test,": "line 4: path is empty",
    "all.csv,1,,test,": "line 4: path all.csv: only .bmp, .*are read",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_row_is_named_by_file_and_line(listed, root, line):
    data = listed("path,label,mask,split,kind", f"{NORMAL[0]},0,,train,", f"{NORMAL[1]},0,,test,", line)
    with pytest.raises(UserError, match=f"(?s)dataset.list: {root / 'lists/all.csv'} has 1 bad rows.*{BAD[line]}"):
        data.check()


def test_all_bad_rows_are_told_at_once_but_not_a_thousand(listed):
    message = refusal(listed("path,label", *(f"x{i}.png,0" for i in range(30))))
    assert message.count("\n") == 11 and "30 bad rows" in message and message.endswith("and 20 more")


def test_masks_for_some_anomalous_rows_only(listed):
    message = refusal(
        listed("path,label,mask", f"{NORMAL[0]},0,", "../bad/8.png,1,../truth/8.png", "../bad/dent/7.png,1,")
    )
    assert "line 4: no mask" in message and "line 3 has one" in message


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["file,label"], "has no column path; its first line names file, label"),
        (["path,label,masks"], "a column masks, which is not read: is it mask"),
        (["path,label,path"], "has two columns path"),
        (["path,label"], "lists no picture"),
        (["path,label", "../bad/8.png,1"], "has no normal row to train"),
        (["path,label,split", f"{NORMAL[0]},0,train"], "has no row whose split is test"),
        (["path,label,split", f"{NORMAL[0]},0,test"], "has no row whose split is train"),
        (["path,label", f'{NORMAL[0]},"0'], "is no CSV, see line 2"),
    ],
)
def test_a_list_that_says_too_little(listed, lines, said):
    assert said in refusal(listed(*lines))


def test_a_missing_list_says_where_it_was_looked_for(folder, root):
    message = refusal(folder(list="nowhere.csv"))
    assert str(root / "nowhere.csv") in message and "dataset.root=. is the current folder" in message


@pytest.mark.parametrize("changes", [{"masks": "truth"}, {"recursive": True}, {"normal": "x"}, {"anomalous": ["bad"]}])
def test_a_list_and_folders_at_once(folder, changes):
    with pytest.raises(UserError, match=f"dataset.{next(iter(changes))} with dataset.list=lists/all.csv"):
        folder(list="lists/all.csv", **changes)


def test_a_list_that_tests_alone(listed):
    """`kdad evaluate` needs no normal pictures to train on."""
    data = listed("path,label", "../bad/8.png,1", "../bad/dent/7.png,1")
    data.trains = False
    data.check()
    assert len(data.test_samples) == 2 and not data.train_samples


# Masks


@pytest.mark.parametrize("top", [1, 255])
def test_masks_the_wrong_way_round_are_told_of(listed, root, save, caplog, top):
    """Masks of 0 and 1 are read as those of 0 and 255 are; one that covers most of its picture is said."""
    mask = np.full((SIDE, SIDE), top, np.uint8)
    mask[4:8] = 0
    save(root / "truth/8.png", mask)
    save(root / "truth/7.png", np.where(mask, 0, top).astype(np.uint8))
    data = listed(
        "path,label,mask", *(f"{n},0," for n in NORMAL), "../bad/8.png,1,../truth/8.png",
        "../bad/dent/7.png,1,../truth/7.png",
    )  # fmt: skip
    data.setup()
    assert data.facts["n_large_masks"] == 1 and data.facts["n_nonbinary_masks"] == 0
    assert (
        f"1 of 2 masks call more than half of the image anomalous: are they the wrong way round? What is 0 counts "
        f"as normal. The first is {root / 'truth/8.png'}" in caplog.text
    )
    regions = data.splits["test"].masks.float().mean((1, 2, 3)).tolist()
    assert sorted(regions)[-2:] == [0.25, 0.75]


@pytest.mark.parametrize("name", ["~nobody-of-this-name/a.png", "x" * 5000 + ".png"])
def test_a_path_that_cannot_be_one_is_a_bad_row(tmp_path, name):
    (tmp_path / "list.csv").write_text(f"path,label\n{name},0\n")
    with pytest.raises(UserError, match="line 2: path "):
        read_list(tmp_path / "list.csv")
