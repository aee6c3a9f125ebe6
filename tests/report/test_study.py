"""Any runs in one table: nothing averaged that differs, nothing dropped."""

import json
import math

import pytest

from kdad.report.decisions import add_means
from kdad.report.study import make_study_report
from kdad.results.kinds import Kind
from kdad.results.read import read_runs
from kdad.results.statistics import list_averages

HEAD = ["model", "data set", "settings", "category", "image AUROC (%)", "pixel AUROC (%)", "PRO (%)", "n",
        "training (s)", "test (s)"]  # fmt: skip


@pytest.fixture
def study(tmp_path):
    return lambda: make_study_report(read_runs([tmp_path]))


def lines(report, table=0):
    return [
        dict(zip((name for _, name in report.tables[table].head), row, strict=False))
        for row in report.tables[table].rows
    ]


def test_mean_and_spread_over_seeds(write_run, study):
    for seed, score in enumerate((0.90, 0.92, 0.94)):
        write_run({"image_auroc": score, "pixel_auroc": 0.5, "pro": 0.25}, seed=seed)
    report = study()
    assert [name for _, name in report.tables[0].head] == HEAD
    assert report.tables[0].rows == [
        ["rd", "mvtec", "", "grid", "92.00 ± 2.00", "50.00 ± 0.00", "25.00 ± 0.00", "3", "101.0", "2.0"]
    ]
    assert "All runs: backbone.name=wide_resnet50_2.tv_in1k, image_size=256, trainer.max_epochs=200." in report.notes
    cell = report.cells.iloc[0]
    assert (cell["image_auroc"], cell["image_auroc_sd"], cell["image_auroc_n"]) == (92, 2, 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.max_epochs", 30), ("image_size", 128), ("model.bottleneck", "pre"), ("optimizer.lr", 0.1),
        ("batch_size", 8), ("dataset.split_seed", 1), ("dataset.train_fraction", 0.5), ("normalisation", "imagenet"),
        ("backbone.name", "resnet18.tv_in1k"), ("backbone.weights", "mine.pth"), ("levels", [1, 2]),
        ("trainer.limit_train_batches", 4), ("val_fraction", 0.2), ("monitor", "val_loss"),
    ],
)  # fmt: skip
def test_runs_that_differ_are_not_averaged(write_run, study, key, value):
    write_run(0.8)
    write_run(0.9, seed=1, changes={key: value})
    found = lines(study())
    assert sorted(line["image AUROC (%)"] for line in found) == ["80.00", "90.00"]
    said = f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
    assert sum(f"{key}={said}" in line["settings"] for line in found) == 1


def test_runs_on_other_weights_of_one_name_are_not_averaged(write_run, study):
    write_run(0.8)
    write_run(0.9, results={"weights_fingerprint": "beef"})
    assert {line["settings"] for line in lines(study())} == {"weights_fingerprint=f00d", "weights_fingerprint=beef"}


@pytest.mark.parametrize(
    ("key", "value"), [("dataset.root", "/elsewhere"), ("trainer.accelerator", "cpu"), ("pictures", 1)]
)
def test_runs_that_differ_in_place_only_are_averaged(write_run, study, key, value):
    write_run(0.8)
    write_run(0.9, seed=1, changes={key: value})
    (line,) = lines(study())
    assert line["image AUROC (%)"] == "85.00 ± 7.07" and line["n"] == "2"  # 10 / sqrt(2)


def test_averages_of_textures_objects_and_all(write_run, study):
    names = list_averages("mvtec")["average"]
    for index, name in enumerate(names):
        for seed in (0, 1):
            write_run(0.5 + 0.01 * index + 0.1 * seed, category=name, seed=seed)
    report = study()
    found = lines(report)
    assert [line["category"] for line in found] == [
        *names[:5], "average of textures", *names[5:], "average of objects", "average"
    ]  # fmt: skip
    by_name = {line["category"]: line["PRO (%)"] for line in found}
    # 0.5 + 0.05 + 0.01 times the mean position of the group; each seed's average moves by 0.1
    assert by_name["average of textures"] == "57.00 ± 7.07"
    assert by_name["average of objects"] == "64.50 ± 7.07"
    assert by_name["average"] == "62.00 ± 7.07"
    assert not any("only" in note for note in report.notes)


def test_an_average_that_lacks_categories_says_so(write_run, study):
    write_run(0.8, category="grid")
    write_run(0.9, category="tile")
    write_run(None, category="wood")
    report = study()
    found = {line["category"]: line for line in lines(report)}
    assert found["average of textures"]["PRO (%)"] == "85.00 (2 of 5)"
    assert found["average"]["PRO (%)"] == "85.00 (2 of 15)"
    assert found["average"]["n"] == "1, 1 failed"
    assert "average of objects" not in found
    assert "rd, mvtec: average over 2 of 15 categories only: grid, tile" in report.notes
    assert found["wood"]["PRO (%)"] == "failed: out of memory"


def test_what_failed_or_collapsed_or_lacks_masks_stays(write_run, study):
    write_run(0.8)
    write_run(None, seed=1, error="Collapsed: every anomaly map is 0.0 everywhere")
    write_run(None, category="wood", error="x" * 60 + "\nsecond line")
    write_run({"image_auroc": 0.5, "pixel_auroc": None, "pro": None}, category="tile", model="stpm",
              results={"pixel_auroc_reason": "no masks", "pro_reason": "no masks"})  # fmt: skip
    (write_run(category="carpet") / "results.json").unlink()
    report = study()
    found = {line["category"]: line for line in lines(report)}
    assert (found["grid"]["PRO (%)"], found["grid"]["n"]) == ("80.00", "1, 1 failed")
    assert found["wood"]["PRO (%)"] == f"failed: {'x' * 37}..."
    assert found["tile"]["PRO (%)"] == "n/a" and found["tile"]["image AUROC (%)"] == "50.00"
    assert found["carpet"]["PRO (%)"] == "unfinished"
    assert "failed: Collapsed: every anomaly map is 0.0 everywhere (rd mvtec/grid seed 1)" in report.notes
    assert f"failed: {'x' * 60} (rd mvtec/wood seed 0)" in report.notes
    assert "n/a: PRO: no masks (stpm mvtec/tile seed 0)" in report.notes
    assert any(note.startswith("unfinished: ") and "rd mvtec/carpet seed 0" in note for note in report.notes)


def test_a_repeated_run_counts_once(write_run, study):
    old = write_run(0.1, age=100)
    write_run(0.8)
    broken = write_run(None, age=-100)
    report = study()
    (line,) = lines(report)
    assert (line["PRO (%)"], line["n"]) == ("80.00", "1")
    (note,) = [note for note in report.notes if "counts once" in note]
    assert str(old) in note and str(broken) in note


def test_a_run_that_failed_before_its_configuration_was_accepted_stays(write_run, study):
    write_run(0.8)
    folder = write_run(None, results={"model": None, "dataset": None, "category": None, "seed": None})
    (folder / "config.yaml").unlink()
    found = lines(study())
    assert [line["model"] for line in found] == ["rd", "?"]
    assert found[1]["settings"] == f"no configuration: {folder}" and found[1]["PRO (%)"] == "failed: out of memory"


def test_a_job_whose_settings_were_refused_is_a_row_and_no_column(write_run, study):
    for category in ("grid", "screw"):
        write_run(0.8, category=category)
        write_run(0.7, model="stpm", category=category)
    refused = write_run(None, error="pictures=-1: give a whole number")
    (refused / "config.yaml").unlink()
    report = study()
    assert [line["model"] for line in lines(report) if line["settings"] == f"no configuration: {refused}"] == ["rd"]
    assert all([name for _, name in table.head] == ["category", "rd", "stpm"] for table in report.tables[1:])
    assert len(report.tables) > 1 and any("pictures=-1" in note for note in report.notes)


def test_detectors_side_by_side(write_run, study):
    small = {"trainer.max_epochs": 5, "image_size": 64}
    write_run(0.7, model="stpm", changes=small)
    write_run(0.8, changes=small)
    write_run(0.9, category="bottle", changes=small)
    write_run(0.6, changes={**small, "model.sigma": 0.0})
    report = study()
    table = report.tables[1]
    assert table.title == "mvtec: image AUROC (%)" and len(report.tables) == 4
    assert [name for _, name in table.head] == ["category", "rd 1", "rd 2", "stpm"]
    order = {note for note in report.notes if note.startswith("mvtec, rd ")}
    teacher = "backbone.name=wide_resnet50_2.tv_in1k"
    assert {note.split(": ")[1] for note in order} == {f"{teacher}, model.sigma={sigma}" for sigma in ("0.0", "4.0")}
    rows = {row[0]: dict(zip(("rd 1", "rd 2", "stpm"), row[1:], strict=True)) for row in table.rows}
    (whole,) = (note[7:11] for note in order if note.endswith("sigma=4.0"))
    (bare,) = {"rd 1", "rd 2"} - {whole}
    assert rows["grid"] == {whole: "80.00", bare: "60.00", "stpm": "70.00"}
    assert rows["bottle"] == {whole: "90.00", bare: "missing", "stpm": "missing"}
    assert rows["average"][whole] == "85.00 (2 of 15)" and rows["average"]["stpm"] == "missing"


def test_decisions_and_kinds(write_tested, study):
    """SCORES: 0.1 0.7 0.2 0.3 normal, 0.9 0.4 1.0 0.8 of a kind; above 0.65 is called anomalous."""
    decided = {"decision_rule": "max", "decision_images": 9, "decision_source": "calibration", "image_f1": 0.75,
               "false_alarm_rate": 0.25, "detection_rate": 0.75, "pixel_f1": None, "false_alarms_promised": 0.1}  # fmt: skip
    write_tested(results=decided)
    write_tested(results=decided | {"false_alarm_rate": 0.75}, seed=1)
    report = study()
    titles = [table.title for table in report.tables]
    decisions, kinds = (report.tables[titles.index(t)] for t in ("At the thresholds", "mvtec: by kind of defect"))
    assert decisions.rows == [
        ["rd", "mvtec", "", "grid", "max of 9 calibration", "50.00", "75.00", "75.00", "", "10.00"]
    ]
    assert kinds.rows == [["grid", "crack", "4", "93.75", "75.00"]]
    assert any("from normal images alone" in note for note in report.notes)


def test_thresholds_of_a_later_calibration_have_a_line_of_their_own(write_run, study):
    """The metrics are the run's, whose row stands for both; a test with its own thresholds says nothing new."""

    def write(seed, threshold, alarms, again=False, **how):
        decided = {"decision_rule": "quantile", "decision_images": 9, "decision_source": "training", **how}
        decided |= {"image_threshold": threshold, "false_alarm_rate": alarms}
        folder = write_run(seed=seed, results=decided | ({"ckpt_path": "tested.ckpt"} if again else {}))
        if again:
            results = json.loads((folder / "results.json").read_text())
            del results["fit_seconds"]
            (folder / "results.json").write_text(json.dumps(results))

    for seed in (0, 1):
        write(seed, 0.5 + seed, 0.5)
        write(seed, 0.5 + seed, 0.5, again=True)
        write(seed, 0.7 + seed, 0.1 + seed / 5, again=True, decision_source="other normal images")
        write(seed, 0.8 + seed, 0.0, again=True, decision_source="other normal images")  # at another level
    (table,) = [table for table in study().tables if table.title == "At the thresholds"]
    assert sorted((row[4], row[5]) for row in table.rows) == [
        ("quantile of 9 other normal images", "0.00"), ("quantile of 9 other normal images", "20.00"),
        ("quantile of 9 training", "50.00"),
    ]  # fmt: skip
    assert [line["n"] for line in lines(study())] == ["2"]


def test_means_over_the_two_kinds_of_loco():
    """Of a category, (90 + 70) / 2; over two categories, those of each kind and of the means."""
    kinds = ("logical_anomalies", "structural_anomalies")
    values = {("box", kinds[0], 3): (0.9, 1.0), ("box", kinds[1], 5): (0.7, 0.5),
              ("pins", kinds[0], 2): (0.5, 0.0), ("pins", kinds[1], 1): (0.6, float("nan"))}  # fmt: skip
    found = {where: {"rd": Kind(where[2], *pair)} for where, pair in values.items()}
    found["box", kinds[0], 3]["stpm"] = found["box", kinds[0], 3]["rd"]
    added = {where: list(values["rd"][1:]) for where, values in add_means(found).items()}
    assert added["box", "mean of both", 8] == pytest.approx([0.8, 0.75])
    assert added["average", kinds[0], 5] == pytest.approx([0.7, 0.5])
    assert added["average", "mean of both", 11][0] == pytest.approx((0.8 + 0.55) / 2)
    assert math.isnan(added["average", "mean of both", 11][1])
    assert "stpm" not in add_means(found)["box", "mean of both", 8]  # it has one of the two alone
    other = {(category, kind.removesuffix("_anomalies"), n): v for (category, kind, n), v in found.items()}
    assert add_means(other) == other


def test_runs_without_decisions_have_no_such_tables(write_run, study):
    write_run(0.9)
    assert [table.title for table in study().tables] == [""]
