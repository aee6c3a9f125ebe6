"""The table by kind of defect and size of region."""

import math

import pytest

from kdad.errors import UserError
from kdad.report.defects import tabulate_defects
from kdad.report.study import make_study_report
from kdad.results.kinds import read_defects
from kdad.results.read import read_runs

HEAD = "by,name,images,regions,pixels,pro,pixel_ap,pixel_f1_max,aupimo\n"


def test_means_over_seeds_stand_side_by_side(write_run, tmp_path):
    for model, values in (("rd", (0.5, 0.7)), ("stpm", (0.9, 0.9))):
        for seed, value in enumerate(values):
            folder = write_run(0.9, model=model, seed=seed)
            text = f"kind,bent,3,4,99,{value},0.25,0.125,nan\nsize,1 to 10 %,2,2,80,{value},0.5,0.5,nan\n"
            (folder / "defects.csv").write_text(HEAD + text)
    report = make_study_report(read_runs([tmp_path]))
    (table,) = [table for table in report.tables if "regions by kind and size" in table.title]
    shown = [("rd", "PRO (%)"), ("rd", "pixel AP (%)"), ("rd", "pixel F1-max (%)")]
    assert table.head[:8] == [("", n) for n in ("category", "by", "name", "images", "regions")] + shown
    assert table.rows == [
        ["grid", "kind", "bent", "3", "4", "60.00", "25.00", "12.50", "90.00", "25.00", "12.50"],
        ["grid", "size", "1 to 10 %", "2", "2", "60.00", "50.00", "50.00", "90.00", "50.00", "50.00"],
    ]
    assert {(0, 8), (1, 8)} <= table.best and (0, 5) not in table.best
    assert any("weighted by regions" in note for note in report.notes)


def test_runs_without_the_file_have_no_table(write_run, tmp_path):
    folder = write_run(0.9)
    runs = read_runs([tmp_path])
    assert (
        read_defects(runs["defects_file"].iloc[0]) == {}
        and tabulate_defects([(["rd", "mvtec", ""], runs)], ["rd"]) == []
    )
    (folder / "defects.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"defects.csv: no column by, name, images"):
        read_defects(folder / "defects.csv")
    (folder / "defects.csv").write_text(HEAD + "kind,none,1,1,9,0.5,0.5,0.5,\n")
    table = read_defects(folder / "defects.csv")
    assert table["name"].tolist() == ["none"] and math.isnan(table["aupimo"][0])
