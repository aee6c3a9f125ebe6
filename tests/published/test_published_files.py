"""The files of published numbers: complete, well formed, described."""

from collections import Counter
from pathlib import Path

import pytest

import kdad.published
from kdad import published
from kdad.errors import UserError

FOLDER = Path(kdad.published.__file__).parent
TABLES = [(paper, table) for paper in published.list_papers() for table in published.list_tables(paper)]
SCORES = {"image_auroc", "pixel_auroc", "pro"}
# Printed cells, dashes left out, and cells that the scans lost.
SIZES = {
    "rd": {"1": 198, "2": 234, "3": 15, "4": 20, "5": 9, "6": 9, "7": 15, "text": 3},
    "mkd": {"1": 6, "2": 319, "3": 160, "4": 96, "5": 10, "6": 9, "figure3": 6, "figure4": 2, "figure5": 6},
    "stpm": {"1": 240, "2": 9, "3": 21, "4": 15, "5": 12, "text": 2},
    "dskd": {"1": 192, "2": 304, "3": 55, "4": 22, "5": 11, "6": 12, "7": 12, "8": 6, "9": 12},
}
LOST = {
    ("2", "MKD", "mnist"): 11,
    ("2", "MKD", "fashion_mnist"): 11,
    ("2", "MKD", "cifar10"): 11,
    ("2", "GT", "cifar10"): 11,
    ("2", "U-Std", "cifar10"): 11,
    ("figure3", "MKD", "mvtec"): 3,
    ("figure3", "MKD", "mnist"): 3,
    ("figure4", "MKD", "mvtec"): 2,
    ("figure5", "MKD", "mvtec"): 3,
    ("figure5", "MKD", "cifar10"): 3,
}
TEXTURES = {"carpet", "grid", "leather", "tile", "wood"}
OBJECTS = {"bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill", "screw", "toothbrush", "transistor", "zipper"}
OBJECTS_3D = {"bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire"}
CATEGORIES = {
    "mvtec": TEXTURES | OBJECTS | {"average_textures", "average_objects", "average", "all"},
    "mvtec_3d": OBJECTS_3D | {"average"},
    "mnist": {*map(str, range(10)), "average"},
    "fashion_mnist": {*map(str, range(10)), "average"},
    "cifar10": {*map(str, range(10)), "average"},
    "caltech256": {"average"},
    "retinal_oct": {"all"},
    "brain_mri": {"all"},
    "head_ct": {"all"},
    "mtd": {"all"},
    "": {"all"},
}


def test_every_file_is_in_the_index_and_the_other_way_round():
    found = {(path.parent.name, path.stem.removeprefix("table")) for path in FOLDER.glob("*/*.csv")}
    assert found == set(TABLES)
    assert len(published.read_index()) == len(TABLES)
    assert {
        paper: {table: len(published.load_table(paper, table)) for table in of} for paper, of in SIZES.items()
    } == SIZES


@pytest.mark.parametrize(("paper", "table"), TABLES)
def test_index_row(paper, table):
    about = published.describe_table(paper, table)
    assert about["title"] and about["unit"] in ("percent", "fraction")
    settings = set(published.load_table(paper, table)["setting"])
    assert bool(about["setting"]) == (settings != {""}), "the index says what a setting is wherever there is one"


@pytest.mark.parametrize(("paper", "table"), TABLES)
def test_cells(paper, table):
    cells = published.load_table(paper, table)
    keys = ["method", "dataset", "category", "setting", "metric"]
    assert not cells.duplicated(keys).any()
    assert (cells["own"] == (cells["method"] == paper.upper())).all()
    assert set(cells["metric"]) <= SCORES | set(published.UNITS)
    for dataset, categories in cells.groupby("dataset")["category"]:
        assert set(categories) <= CATEGORIES[dataset]
    assert cells["spread"].str.fullmatch(r"(\d+\.\d+)?").all()
    assert (cells["value"].notna() == (cells["status"] == "printed")).all()
    assert cells["value"].dropna().str.fullmatch(r"\d+(\.\d+)?").all(), "digits as printed"


@pytest.mark.parametrize(("paper", "table"), TABLES)
def test_values_lie_in_the_range_of_their_unit(paper, table):
    cells = published.load_table(paper, table)
    printed = cells[cells["status"] == "printed"]
    for _, cell in printed.iterrows():
        value = float(cell["value"])
        if cell["metric"] in published.UNITS:
            assert cell["unit"] == published.UNITS[cell["metric"]] and value > 0
            assert cell["fraction"] != cell["fraction"], "a cost is no score"
        elif cell["unit"] == "percent":
            assert 10 < value <= 100 and cell["fraction"] == value / 100
        else:
            assert cell["unit"] == "fraction" and 0.1 < value <= 1 and cell["fraction"] == value


def test_lost_cells_stay_unknown():
    lost = Counter()
    for paper, table in TABLES:
        cells = published.load_table(paper, table)
        unknown = cells[cells["status"] == "unknown"]
        assert paper == "mkd" or unknown.empty
        assert unknown["value"].isna().all() and unknown["fraction"].isna().all()
        lost.update(zip(unknown["table"], unknown["method"], unknown["dataset"], strict=False))
    assert lost == LOST


def test_own_and_quoted_are_told_apart():
    cells = published.load_table("rd", 1)
    assert set(cells.loc[cells["own"], "method"]) == {"RD"} and len(cells[cells["own"]]) == 36
    assert "MKD" in set(cells.loc[~cells["own"], "method"])


def test_a_table_is_named_by_number_or_text():
    assert published.load_table("rd", 5).equals(published.load_table("rd", "5"))
    assert published.list_tables("mkd") == [*"123456", "figure3", "figure4", "figure5"]


def test_unknown_names_say_what_there_is():
    with pytest.raises(UserError, match="'xyz'; there are: rd, mkd, stpm, dskd"):
        published.list_tables("xyz")
    with pytest.raises(UserError, match="stpm has no table 9; there are: 1, 2, 3, 4, 5, text"):
        published.load_table("stpm", 9)
