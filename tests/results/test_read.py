"""Reading runs: all of them, and nothing else."""

import json
import math
import warnings
from pathlib import Path

import pytest

from kdad.errors import UserError
from kdad.results.read import COLUMNS, read_runs


def test_a_row_holds_what_the_run_has_left(write_run, tmp_path):
    folder = write_run({"image_auroc": 0.5, "pixel_auroc": 0.25, "pro": None}, results={"pro_reason": "no masks"})
    (folder / "maps").mkdir()
    (folder / "scores.csv").touch()
    table = read_runs([tmp_path])
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["folder"], row["kind"], row["variant"], row["status"]) == (folder, "run", "", "ok")
    assert (row["image_auroc"], row["pixel_auroc"]) == (0.5, 0.25)
    assert math.isnan(row["pro"]) and row["pro_reason"] == "no masks"
    assert row["config"]["model"]["bottleneck"] == "mff_oce"
    assert row["config_file"] == folder / "config.yaml"
    assert row["scores_file"] == folder / "scores.csv"
    assert row["curves_file"] is None
    assert row["maps_folder"] == folder / "maps"


def test_failed_runs_variants_evaluations_and_categories_have_rows(write_run, tmp_path):
    again = {"ckpt_path": "a/tested.ckpt", "fit_seconds": None}
    write_run(None, folder="0")
    write_run(folder="1")
    tested = write_run(folder="1/variants/M1", results=again)
    results = json.loads((tested / "results.json").read_text())
    del results["fit_seconds"]
    for folder in ("1/variants/M1", "1/evaluations/today"):
        (tmp_path / "runs" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / folder / "results.json").write_text(json.dumps(results))
    write_run(folder="2/carpet", category="carpet")
    table = read_runs([tmp_path])
    names = [str(folder.relative_to(tmp_path / "runs")) for folder in table["folder"]]
    assert names == ["0", "1", "1/evaluations/today", "1/variants/M1", "2/carpet"]
    assert table["status"].tolist() == ["failed", "ok", "ok", "ok", "ok"]
    assert table["kind"].tolist() == ["run", "run", "evaluation", "variant", "run"]
    assert table["variant"].tolist() == ["", "", "", "M1", ""]
    assert table["error"][0] == "out of memory"


def test_a_resumed_run_is_a_run(write_run, tmp_path):
    write_run(results={"ckpt_path": "checkpoints/last.ckpt"})
    assert read_runs([tmp_path])["kind"].tolist() == ["run"]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ('{"status": "ok", "mod', "Unterminated string"),
        ("", "Expecting value"),
        ("[1, 2]", "not the results of a kdad run"),
        ('{"status": "done", "accuracy": 1}', "not the results of a kdad run"),
        ('{"status": "ok", "model": "rd", "dataset": "mvtec"}', "it says ok but has no image_auroc, pixel_auroc, pro"),
        (b"\xff\xfe\x00", "codec"),
    ],
)
def test_what_is_no_result_is_left_out_by_name(write_run, tmp_path, content, cause):
    good = write_run()
    bad = tmp_path / "bad" / "results.json"
    bad.parent.mkdir()
    bad.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.warns(UserWarning, match=str(bad)):
        table = read_runs([tmp_path])
    assert table["folder"].tolist() == [good]
    assert len(table.attrs["skipped"]) == 1
    assert str(bad) in table.attrs["skipped"][0] and cause in table.attrs["skipped"][0]


@pytest.mark.parametrize("content", ["a: [1,", "- 1\n- 2", "text", "model: 1", "model: {name: rd}"])
def test_a_run_with_an_unreadable_configuration_stays(write_run, tmp_path, content):
    folder = write_run()
    (folder / "config.yaml").write_text(content)
    with pytest.warns(UserWarning, match="config.yaml is skipped"):
        table = read_runs([tmp_path])
    assert table["config"].tolist() == [{}] and table["status"].tolist() == ["ok"]


def test_a_run_without_results_is_unfinished(write_run, tmp_path):
    folder = write_run(model="stpm", category="tile", seed=7)
    (folder / "results.json").unlink()
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text("model: {}")
    table = read_runs([tmp_path])
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["status"], row["model"], row["dataset"], row["category"], row["seed"]) == (
        "unfinished", "stpm", "mvtec", "tile", 7
    )  # fmt: skip


def test_a_folder_above_results_is_not_unfinished(write_run, tmp_path):
    folder = write_run(folder="all/grid")
    (folder.parent / "config.yaml").write_text("category: all")
    assert read_runs([tmp_path])["folder"].tolist() == [folder]


def test_other_peoples_configurations_are_no_runs(tmp_path):
    for name, content in (("wandb", "model: {value: {name: rd}}"), ("other", "[1]"), ("broken", "a: [")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(content)
    table = read_runs([tmp_path])
    assert table.empty and not table.attrs["skipped"]


def test_each_run_once_however_the_folders_overlap(write_run, tmp_path, monkeypatch):
    folder = write_run()
    monkeypatch.chdir(tmp_path)
    assert read_runs([tmp_path, folder, Path("runs")])["folder"].tolist() == [folder]


def test_no_runs_and_no_folder(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = read_runs([tmp_path])
    assert table.empty and table.columns.tolist() == list(COLUMNS)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read_runs([tmp_path / "nowhere"])


def test_a_metric_of_ones_own_has_any_range(tmp_path):
    whole = {"status": "ok", "model": "rd", "dataset": "mvtec", "image_auroc": 0.5, "pixel_auroc": None, "pro": None}
    (tmp_path / "results.json").write_text(json.dumps(whole | {"extra_distance": 3.7, "extra_margin": -2}))
    (row,) = read_runs([tmp_path]).to_dict("records")
    assert (row["extra_distance"], row["extra_margin"]) == (3.7, -2)


@pytest.mark.parametrize("changed", [{"image_auroc": {"a": 1}}, {"model": ["rd"]}, {"decision_images": "many"},
                                     {"data_fingerprint": []}, {"levels": ["2,3"]}, {"severity": "3"},
                                     {"image_auroc": 5}, {"pixel_auroc": -3}, {"pro": True}, {"pro_0.05": 2.0}])  # fmt: skip
def test_results_of_another_type_are_skipped(tmp_path, changed):
    whole = {"status": "ok", "model": "rd", "dataset": "mvtec", "image_auroc": 0.5, "pixel_auroc": None, "pro": None}
    (tmp_path / "results.json").write_text(json.dumps(whole))
    assert len(read_runs([tmp_path])) == 1
    (tmp_path / "results.json").write_text(json.dumps(whole | changed))
    with pytest.warns(UserWarning, match=f"is skipped: {next(iter(changed))} is"):
        assert read_runs([tmp_path]).empty


def test_a_decision_without_its_parts_is_skipped(tmp_path):
    whole = {"status": "ok", "model": "rd", "dataset": "mvtec", "image_auroc": 0.5, "pixel_auroc": None, "pro": None}
    decided = {"decision_rule": "quantile", "decision_source": "calibration"}
    (tmp_path / "results.json").write_text(json.dumps(whole | decided | {"decision_images": 9}))
    assert len(read_runs([tmp_path])) == 1
    (tmp_path / "results.json").write_text(json.dumps(whole | decided))
    with pytest.warns(UserWarning, match="has decision_rule but no decision_images"):
        assert read_runs([tmp_path]).empty
