"""A paper's tables: every printed cell, what was measured beside it, and the difference in the printed unit."""

import re

import pandas as pd
import pytest

from kdad import published
from kdad.errors import UserError
from kdad.report.paper import NONE, format_difference, make_paper_report
from kdad.report.writers import FORMATS
from kdad.results.read import read_runs
from kdad.results.statistics import list_averages

pytestmark = pytest.mark.slow  # processes of their own, or many seconds

TABLES = [(paper, table) for paper in published.list_papers() for table in published.list_tables(paper)]


@pytest.fixture
def report(tmp_path):
    return lambda paper, table, **options: make_paper_report(paper, table, read_runs([tmp_path]), **options)


def lines(report, table=0):
    """Rows as dictionaries; a column of a group is named by both."""
    head = [" ".join(filter(None, column)) for column in report.tables[table].head]
    return [dict(zip(head, row, strict=True)) for row in report.tables[table].rows]


@pytest.mark.slow
@pytest.mark.parametrize(("paper", "table"), TABLES)
def test_every_table_without_runs(report, paper, table):
    found = report(paper, table, quoted=True)
    cells = published.load_table(paper, table)
    own, quoted = cells[cells["own"]], cells[~cells["own"]]
    shown = [value for line in lines(found) for column, value in line.items() if column.endswith("published")]
    spread = own["spread"].map(lambda text: f" ± {text}" if text else "")
    assert sorted(value for value in shown if value != NONE) == sorted(own["value"].fillna("unknown") + spread)
    measured = [value for line in lines(found) for column, value in line.items() if column.endswith("measured")]
    assert (
        set(measured) <= {"missing", NONE} and measured.count("missing") == (~own["metric"].isin(published.UNITS)).sum()
    )
    assert all(value == NONE for line in lines(found) for name, value in line.items() if name.endswith("difference"))
    assert len(found.cells) == len(cells)
    assert sum(
        value != NONE for table in found.tables[1:] for row in table.rows for value in row[table.labels :]
    ) == len(quoted)
    for _, layout in FORMATS.values():
        assert "\n" in layout(found)


def test_quotations_are_kept_apart(report):
    assert len(report("rd", 1).tables) == 1
    main, quoted = report("rd", 1, quoted=True).tables
    assert "PaDiM (256)" not in str(main) and ("", "PaDiM (256)") in quoted.head
    assert quoted.title == "Quoted by the paper: image AUROC, percent"
    assert quoted.rows[0][:3] == ["carpet", "79.3", "43.7"]


def test_difference_in_percent(write_run, report):
    for seed, score in enumerate((0.970, 0.974, 0.978)):
        write_run(score, seed=seed)
    found = {(line["image size"], line["category"]): line for line in lines(report("rd", 1))}
    grid = found["256", "grid"]
    assert grid["image AUROC (%) published"] == "100"
    assert grid["image AUROC (%) measured"] == "97.4 ± 0.4"
    assert grid["image AUROC (%) difference"] == "-2.6"
    assert grid["n"] == "3"
    assert (
        found["128", "grid"]["image AUROC (%) measured"]
        == found["256", "tile"]["image AUROC (%) measured"]
        == "missing"
    )
    assert found["256", "tile"]["image AUROC (%) difference"] == NONE


def test_difference_in_fractions(write_run, report):
    write_run({"image_auroc": 0.5, "pixel_auroc": 0.9913, "pro": 0.9}, model="stpm")
    (grid,) = [line for line in lines(report("stpm", 1)) if line["category"] == "grid"]
    assert (grid["pixel AUROC published"], grid["pixel AUROC measured"]) == ("0.990", "0.991")
    assert grid["pixel AUROC difference"] == "+0.001"
    assert (grid["PRO published"], grid["PRO measured"], grid["PRO difference"]) == ("0.966", "0.900", "-0.066")


def test_the_csv_is_unrounded_and_in_the_printed_unit(write_run, report):
    write_run(0.97123456, model="stpm")
    cells = report("stpm", 1).cells
    cell = cells[(cells["category"] == "grid") & (cells["metric"] == "pro")].iloc[0]
    assert (cell["published"], cell["measured"], cell["unit"], cell["status"]) == ("0.966", 0.971235, "fraction", "ok")
    assert cell["difference"] == pytest.approx(0.00523456, abs=1e-6)
    write_run(0.97123456)
    made = report("rd", 1, quoted=True)
    assert ",percent,100,,97.123456,,1,-2.876544,ok\n" in FORMATS["csv"][1](made)
    cells = made.cells
    cell = cells[(cells["category"] == "grid") & (cells["setting"] == "256")].iloc[0]
    assert (cell["published"], cell["measured"], cell["unit"]) == ("100", 97.123456, "percent")


@pytest.mark.parametrize(
    ("difference", "digits", "text"),
    [
        (1.84, 1, "+1.8"),
        (-0.04, 1, "0.0"),
        (0.04, 1, "0.0"),
        (-0.06, 1, "-0.1"),
        (0.0004, 3, "0.000"),
        (float("nan"), 1, NONE),
    ],
)
def test_signs(difference, digits, text):
    assert format_difference(difference, digits) == text


@pytest.mark.parametrize(("paper", "table"), [("rd", 2), ("stpm", 1), ("dskd", 2), ("mkd", 3)])
def test_published_figures_as_if_measured(write_run, report, paper, table):
    """Every difference of a category is nothing; those of the averages are what the paper's own rounding leaves."""
    cells = published.load_table(paper, table)
    cells = cells[cells["own"] & (cells["setting"].isin(["", "256"]))]
    for category, group in cells.groupby("category"):
        if not category.startswith("average"):
            scores = dict.fromkeys(("image_auroc", "pixel_auroc", "pro"), 0.5)
            write_run(
                scores | dict(zip(group["metric"], group["fraction"], strict=True)), model=paper, category=category
            )
    found = report(paper, table).cells
    found = found[found["setting"] == cells["setting"].iloc[0]]
    assert (found["status"] == "ok").all() and len(found) == len(cells)
    averaged = found["category"].str.startswith("average")
    assert found.loc[~averaged, "difference"].abs().max() < 1e-5
    assert averaged.sum() == {"rd": 6, "stpm": 2, "dskd": 2, "mkd": 1}[paper]
    for _, cell in found[averaged].iterrows():
        of_category = cells[
            (cells["metric"] == cell["metric"]) & cells["category"].isin(list_averages("mvtec")[cell["category"]])
        ]
        exact = sum(pd.to_numeric(of_category["value"])) / len(of_category)
        assert cell["difference"] == pytest.approx(exact - float(cell["published"]), abs=1e-5)


def test_an_average_is_compared_only_when_it_is_over_all(write_run, report):
    names = list_averages("mvtec")["average"]
    for name in names[:-1]:
        write_run(0.9, category=name)
    made = report("rd", 5)
    found = [line for line in lines(made) if line["bottleneck"] == "Pre+OCE+MFM"]
    assert [line["category"] for line in found] == [*names[:-1], "average"]
    assert found[-1]["PRO (%) measured"] == "90.0 (14 of 15)" and found[-1]["PRO (%) difference"] == NONE
    assert "average over 14 of 15 categories only: all but zipper (Pre+OCE+MFM)" in made.notes
    write_run(0.9, category=names[-1])
    made = report("rd", 5)
    found = [line for line in lines(made) if line["bottleneck"] == "Pre+OCE+MFM"]
    assert [line["category"] for line in found] == ["average"], "as the paper prints it"
    assert found[0]["PRO (%) measured"] == "90.0" and found[0]["PRO (%) difference"] == "-3.9"
    assert not any("only" in note for note in made.notes)


def test_failed_unfinished_and_unmeasured_cells_stay(write_run, report):
    write_run(None, category="carpet", error="Collapsed: the score of every test image is 0.0")
    write_run(0.9)
    write_run(None, seed=1, error="CUDA | out of memory")
    (write_run(category="wood") / "results.json").unlink()
    write_run({"image_auroc": None, "pixel_auroc": 0.9, "pro": 0.9}, category="tile",
              results={"image_auroc_reason": "no normal image"})  # fmt: skip
    found = report("rd", 1)
    by_name = {line["category"]: line for line in lines(found) if line["image size"] == "256"}
    cell = "image AUROC (%) measured"
    assert by_name["carpet"][cell] == "failed: Collapsed: the score of every test im..."
    assert (by_name["grid"][cell], by_name["grid"]["n"]) == ("90.0", "1, 1 failed")
    assert (by_name["wood"][cell], by_name["tile"][cell], by_name["screw"][cell]) == ("unfinished", "n/a", "missing")
    assert "failed: Collapsed: the score of every test image is 0.0 (rd mvtec/carpet seed 0)" in found.notes
    assert "n/a: image AUROC: no normal image (rd mvtec/tile seed 0)" in found.notes
    statuses = found.cells.set_index(["setting", "category"]).loc["256", "status"]
    assert statuses["carpet"].startswith("failed: ") and statuses["screw"] == "missing" and statuses["grid"] == "ok"


def test_conditions_have_rows_of_their_own_and_are_named(write_run, report):
    write_run(0.8, changes={"trainer.max_epochs": 30})
    write_run(0.9)
    write_run(0.7, changes={"model.bottleneck": "pre", "trainer.max_epochs": 30})
    found = report("rd", 5)
    rows = {(line["bottleneck"], line["category"], line["runs"]): line["PRO (%) measured"] for line in lines(found)}
    assert rows["Pre+OCE+MFM", "grid", "a"] == "90.0" and rows["Pre+OCE+MFM", "grid", "b"] == "80.0"
    assert rows["Pre", "grid", "b"] == "70.0" and rows["Pre+OCE", "average", NONE] == "missing"
    assert ("Pre", "grid", "a") not in rows
    assert "Runs a: the paper's recipe; missing: Pre." in found.notes
    assert "Runs b: the paper's recipe but for trainer.max_epochs=30 (not 200)." in found.notes


def test_variants_fill_the_settings_of_their_table(write_run, report):
    folder = write_run(0.9)
    for name, levels, score in (("M1", [1], 0.6), ("M23", [2, 3], 0.8)):
        changes = {"model.score_levels": levels}
        write_run(score, folder=f"{folder.name}/variants/{name}", changes=changes, results={"ckpt_path": "tested.ckpt"})
    found = {line["score maps"]: line for line in lines(report("rd", 7)) if line["category"] == "grid"}
    shown = {setting: line["image AUROC (%) measured"] for setting, line in found.items()}
    assert shown == {"M^1": "60.0", "M^{2,3}": "80.0", "M^{1,2,3}": "90.0"}
    beyond = lines(report("rd", 5), 1)
    assert [line["setting"] for line in beyond] == [
        "Pre+OCE+MFM, model.score_levels=[1]", "Pre+OCE+MFM, model.score_levels=[2,3]"
    ]  # fmt: skip
    assert [line["PRO (%)"] for line in beyond] == ["60.0", "80.0"]


def test_unknown_cells_are_compared_with_nothing(write_run, report):
    for category in list_averages("mvtec")["average"]:
        write_run(0.9, model="mkd", category=category)
    found = report("mkd", "figure3")
    (line,) = [line for line in lines(found) if line["data set"] == "mvtec" and "last four" in line.values()]
    assert line["image AUROC (%) published"] == "unknown"
    assert line["image AUROC (%) measured"] == "90.0" and line["image AUROC (%) difference"] == NONE
    assert "unknown: the sources available do not show the cell." in found.notes


def test_a_set_of_one_category(write_run, report):
    write_run(0.6, model="dskd", dataset="mtd", category="all")
    (line,) = lines(report("dskd", 5))
    assert "category" not in line and line["n"] == "1"
    assert (line["PRO (%) measured"], line["PRO (%) difference"]) == (
        "60.0",
        f"{60 - float(line['PRO (%) published']):+.1f}",
    )


def test_classes_that_no_paper_lists(write_run, report):
    write_run(0.9, dataset="caltech256", category="all")
    found = report("rd", 4)
    (line,) = [line for line in lines(found) if line["data set"] == "caltech256" and line["category"] == "average"]
    assert line["image AUROC (%) measured"] == "90.0"
    assert "The average of caltech256 is over the classes that were run: no paper lists them." in found.notes


def test_a_repeat_counts_once(write_run, report):
    write_run(0.1, age=10)
    write_run(0.9)
    found = report("rd", 5)
    (line,) = [line for line in lines(found) if line["category"] == "grid"]
    assert (line["PRO (%) measured"], line["n"]) == ("90.0", "1")
    assert any(re.search(r"counts once.*left out: .*runs/0$", note) for note in found.notes)


def test_unknown_names(report):
    with pytest.raises(UserError, match="rd has no table '8'"):
        report("rd", "8")
