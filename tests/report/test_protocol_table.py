"""The table of what other protocols make of the same maps, and an evaluation that only adds them."""

from kdad.report.study import make_study_report
from kdad.results.read import expand_metrics, read_runs
from tests.runs import METRICS


def by_protocol(value, name="rd_code", about="pro.thresholds=200"):
    return {f"{metric}@{name}": value for metric in METRICS} | {f"protocol@{name}": about}


def find_table(report):
    return next((table for table in report.tables if table.title == "By other protocols"), None)


def test_ours_theirs_and_the_difference(write_run, tmp_path):
    for seed, value in enumerate((0.5, 0.7)):
        write_run(0.5, seed=seed, results=by_protocol(value) | {"pro@rd_code": None, "pro@rd_code_reason": "none"})
    write_run(0.9, model="stpm")
    report = make_study_report(read_runs([tmp_path]))
    table = find_table(report)
    assert table.head[5:8] == [("image AUROC (%)", part) for part in ("ours", "theirs", "difference")]
    (line,) = table.rows
    assert (line[0], line[1], line[3], line[4]) == ("rd", "mvtec", "grid", "rd_code")
    assert line[5:] == ["50.00", "60.00", "+10.00"] * 2 + ["n/a"] * 3
    assert "rd_code: pro.thresholds=200." in report.notes
    assert any("not comparable" in note for note in report.notes)


def test_several_categories_have_an_average(write_run, tmp_path):
    write_run(0.5, category="grid", results=by_protocol(0.6))
    write_run(0.7, category="screw", results=by_protocol(0.7))
    lines = find_table(make_study_report(read_runs([tmp_path]))).rows
    assert [line[3] for line in lines] == ["grid", "screw", "average"]
    assert lines[-1][5:8] == ["60.00", "65.00", "+5.00"]


def test_an_evaluation_adds_its_numbers_to_the_runs_row(write_run, tmp_path):
    """The row is the run's, with its time of training; numbers of another evaluation that scores otherwise stay out."""
    run = write_run(0.5, age=9)
    again = {"ckpt_path": "x", **by_protocol(0.75)}
    for folder, scores, value in (("again", 0.5, 0.75), ("other", 0.25, 1.0)):
        place = write_run(scores, folder=f"0/evaluations/{folder}", results=again | by_protocol(value))
        text = (place / "results.json").read_text().replace('"fit_seconds": 100.0, ', "")
        (place / "results.json").write_text(text)
    runs = read_runs([tmp_path])
    assert sorted(runs["kind"]) == ["evaluation", "evaluation", "run"]
    report = make_study_report(runs)
    assert report.tables[0].rows[0][4] == "50.00" and len(report.tables[0].rows) == 1
    assert find_table(report).rows[0][5:8] == ["50.00", "75.00", "+25.00"]
    assert str(run) not in " ".join(report.notes).split()


def test_without_such_keys_there_is_no_table_and_no_metric_more(write_run, tmp_path):
    write_run(0.5)
    assert find_table(make_study_report(read_runs([tmp_path]))) is None
    write_run(0.5, seed=1, results=by_protocol(0.6))
    runs = read_runs([tmp_path])
    assert not [metric for metric in expand_metrics(["all"], runs) if "@" in metric]
    assert find_table(make_study_report(runs, ["mad"])) is None
