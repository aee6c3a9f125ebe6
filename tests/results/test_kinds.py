"""Figures by kind of defect against pairs counted one by one."""

import numpy as np
import pytest

from kdad.errors import UserError
from kdad.report.study import make_study_report
from kdad.results.kinds import drop_damaged, measure_kinds, rank
from kdad.results.read import read_runs


def test_rank_counts_pairs():
    generator = np.random.default_rng(0)
    normal, anomalous = generator.integers(0, 6, 20) / 2, generator.integers(2, 9, 7) / 2
    pairs = [1.0 * (a > n) + 0.5 * (a == n) for a in anomalous for n in normal]
    assert rank(normal, anomalous) == pytest.approx(np.mean(pairs))
    assert np.isnan(rank(normal[:0], anomalous))


def test_each_kind_against_all_normal_images(tmp_path):
    rows = [("good", 0, 0.1, 0), ("good", 0, 0.5, 1), ("a", 1, 0.5, 1), ("b", 1, 0.7, 1), ("b", 1, 0.05, 0)]
    lines = [f"{i}.png,{label},{score},{kind},0.5,{called}" for i, (kind, label, score, called) in enumerate(rows)]
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(["path,label,score,kind,normalised_score,decision", *lines]))
    found = measure_kinds(path)
    assert found == {"a": (1, 0.75, 1.0), "b": (2, 0.5, 0.5)}
    path.write_text("path,label,score\na.png,1,0.5\n")
    assert measure_kinds(path) == measure_kinds(None) == {}


def test_a_kind_may_look_like_a_number_and_a_cell_be_empty(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(
        'path,label,score,kind,decision\n"a,b.png",0,0.1,good,\nb.png,1,0.2,01,\nc.png,1,0.3,NA,1\nd.png,1,0.4,,\n'
    )
    found = measure_kinds(path)
    assert list(found) == ["01", "NA"] and found["NA"] == (1, 1.0, 1.0) and np.isnan(found["01"].detected)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"label,score,kind\n1,high,a\n", "column score holds something else"), (b"label,score,kind\n\xff,1,a\n", "column label holds something else"),
     (b"label,score,kind\n1,1,a,4\n", "row 2 has another number of cells"),
     (b"label,score,kind\n1,1,a\n0,1\n", "row 3 has another number"), (b"label,score,kind\n1,1,\0\n", "")],
)  # fmt: skip
def test_what_is_no_table_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "scores.csv"
    path.write_bytes(content)
    if said:
        with pytest.raises(UserError, match=f"scores.csv.*{said}"):
            measure_kinds(path)
    else:
        measure_kinds(path)


def test_tables_that_cannot_be_believed_are_left_out_of_a_report(write_run, tmp_path):
    """Bytes that are no text, a file that was cut, one without its columns: each costs its own cells alone."""
    good, binary, cut, empty = (write_run(0.9, seed=seed, results={"n_test": 3}) for seed in range(4))
    rows = ["path,label,score,kind", "a.png,0,0.1,good", "b.png,0,0.2,good", "c.png,1,0.3,bent"]
    for folder in (good, binary):
        (folder / "scores.csv").write_text("\n".join(rows) + "\n")
    (binary / "scores.csv").write_bytes(b"\xff\xfe")
    (cut / "scores.csv").write_text("\n".join(rows[:3]) + "\n")
    (empty / "scores.csv").write_text("")
    (good / "defects.csv").write_bytes(b"\xff")
    runs = drop_damaged(read_runs([tmp_path]))
    left = {run["folder"].name: run["scores_file"] for _, run in runs.iterrows()}
    assert left == {"0": (good / "scores.csv").resolve(), "1": None, "2": None, "3": None}
    said = "\n".join(runs.attrs["skipped"])
    assert f"{cut / 'scores.csv'}: 2 rows, but 3 images were tested" in said
    assert f"{empty / 'scores.csv'}: no column path, label, score" in said and f"{good / 'defects.csv'}" in said
    report = make_study_report(runs)
    assert next(table.rows for table in report.tables if "by kind of defect" in table.title)[0][1:3] == ["bent", "1"]
    assert sum("was it changed" in note.lower() for note in report.notes) == 4
