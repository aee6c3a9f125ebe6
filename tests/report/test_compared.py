"""`kdad report --compare` and `--metrics`, as a user reads them."""

import csv
import io
import json

import pytest

from kdad.engine.record import SEVEN
from kdad.errors import UserError
from kdad.report.__main__ import main
from kdad.results.levels import read_levels
from kdad.results.read import read_runs

CATEGORIES = ("carpet", "grid", "leather", "tile", "wood", "bottle")


def test_a_study_is_compared(write_run, tmp_path, capsys):
    for shift, model in ((0.05, "rd"), (0.0, "stpm"), (-0.05, "dskd")):
        for i, category in enumerate(CATEGORIES):
            for seed in (0, 1, 2):
                write_run(0.8 + 0.01 * i + shift + 0.001 * seed, model=model, category=category, seed=seed)
    main([str(tmp_path), "--compare", "--metrics", "pro", "--out", str(tmp_path / "out")])
    shown = " ".join(capsys.readouterr().out.replace("|", " ").split())
    assert "rd stpm PRO 6 3 +5.00 +5.00 to +5.00 categories and seeds 6 0 0 0.031 0.094" in shown
    assert "rd dskd PRO 6 3 +10.00" in shown and "PRO rd 1.00 6 0.002 1.35 stpm" in shown
    assert "too few" not in shown and "at least three" not in shown
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"comparison.md", "comparison.csv", "comparison.tex"}


def test_too_little_is_said(write_run, tmp_path, capsys):
    for model, score in (("rd", 0.9), ("stpm", 0.8)):
        write_run(score, model=model)
    main([str(tmp_path), "--compare"])
    shown = capsys.readouterr().out
    assert "1 category: too few for a test" in shown and "run at least three" in shown
    assert "no interval of one run each" in shown


def test_nothing_to_compare_is_said(write_run, tmp_path, capsys):
    write_run(0.9)
    main([str(tmp_path), "--compare"])
    assert "there is nothing to compare" in capsys.readouterr().out


def test_all_seven_metrics_and_their_mean(write_run, tmp_path, capsys):
    more = dict.fromkeys(("image_ap", "image_f1_max", "pixel_ap", "pixel_f1_max"), 0.5)
    write_run(0.9, results=more)
    write_run(0.9, model="stpm", results=more | {"pixel_ap": None, "pixel_ap_reason": "no masks"})
    main([str(tmp_path), "--metrics", "all", "--format", "csv"])
    rd, stpm = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert {*SEVEN, "mad"} <= set(rd)
    assert float(rd["mad"]) == pytest.approx(100 * (3 * 0.9 + 4 * 0.5) / 7, abs=1e-4)
    assert stpm["mad"] == "" and stpm["mad_status"] == "n/a"
    main([str(tmp_path), "--metrics", "mad", "pixel_ap", "--html", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert "MAD (%)" in page and "Pixel AP (%)" in page and "Image AUROC (%)" not in page


def test_comparing_is_a_report_of_its_own(write_run, tmp_path, capsys):
    write_run(0.9)
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--compare", "--paper", "rd"])
    assert "--compare is a report of its own" in capsys.readouterr().err


def test_pro_up_to_other_rates(write_run, tmp_path, capsys):
    write_run(0.9, results={"pro_0.05": 0.4321})
    main([str(tmp_path), "--metrics", "pro_0.05", "pro"])
    assert "PRO to 0.05 (%)" in (said := capsys.readouterr().out) and "43.2" in said
    main([str(tmp_path), "--metrics", "all", "--format", "csv"])
    assert "pro_0.05" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--metrics", "pro_0.1"])
    assert "metrics.pro_limits=[0.3,0.1]" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--metrics", "auroc"])
    assert "choose from image_auroc" in capsys.readouterr().err


def test_pro_that_only_an_evaluation_has_stands_in_the_row_of_its_run(write_run, tmp_path, capsys):
    run = write_run(0.9)
    results = json.loads((run / "results.json").read_text())
    again = run / "evaluations/later"
    again.mkdir(parents=True)
    (again / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    del results["fit_seconds"]
    (again / "results.json").write_text(json.dumps(results | {"ckpt_path": "tested.ckpt", "pro_0.05": 0.4321}))
    main([str(tmp_path), "--metrics", "pro", "pro_0.05", "--format", "csv"])
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(row["pro"]) == pytest.approx(90) and float(row["pro_0.05"]) == pytest.approx(43.21)


def test_a_set_that_one_detector_was_run_on_alone_is_named(write_run, tmp_path, capsys):
    for model in ("rd", "stpm"):
        write_run(0.9, model=model, category="grid")
    write_run(0.8, model="stpm", dataset="mtd", category="all")
    main([str(tmp_path / "runs"), "--compare"])
    assert "Of mtd there are runs of one detector or setting alone: not compared." in capsys.readouterr().out


def test_what_is_not_compared_is_said(write_run, tmp_path, capsys):
    for model in ("rd", "stpm"):
        write_run(0.9, model=model, category="grid")
    write_run(0.8, model="mkd", category="grid", seed=5)
    write_run(None, model="stpm", category="screw", results={"status": "failed", "error": "no room"})
    (tmp_path / "runs/cut").mkdir()
    (tmp_path / "runs/cut/results.json").write_text('{"status": "ok"')
    main([str(tmp_path / "runs"), "--compare"])
    said = capsys.readouterr().out
    assert "mkd: not compared, since no other run shares a category and a seed." in said
    assert "Not compared: 1 failed." in said and f"{tmp_path}/runs/cut/results.json is skipped" in said


def test_metrics_that_only_some_runs_have_are_named_where_they_are_not_shown(write_run, tmp_path, capsys):
    write_run(0.9, results={"spro_0.05": 0.5})
    main([str(tmp_path / "runs")])
    assert "Measured, too: spro_0.05; --metrics image_auroc" in capsys.readouterr().out
    main([str(tmp_path / "runs"), "--metrics", "spro_0.05"])
    assert "Measured, too" not in capsys.readouterr().out


def test_a_key_that_no_run_has_a_number_for_is_refused(write_run, tmp_path):
    write_run(0.9)
    with pytest.raises(UserError, match=r"--key dataset.shots: it is null in all runs"):
        read_levels(read_runs([tmp_path]), "dataset.shots")
