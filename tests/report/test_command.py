"""The command line."""

import json

import pandas as pd
import pytest

from kdad.report.__main__ import leave_out_corrupted, main

pytestmark = pytest.mark.slow  # processes of their own, or many seconds


def test_a_study(write_run, tmp_path, capsys):
    write_run(0.9)
    main([str(tmp_path)])
    shown = capsys.readouterr()
    assert shown.out.startswith("## Runs\n\n| model |") and " 90.00 " in shown.out and shown.err == ""


def test_a_paper_without_folders_reads_outputs(write_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["--paper", "rd", "--table", "5"])
    alone = capsys.readouterr().out
    assert "| 96.0 " in alone.replace("  ", "") and "missing" in alone and "grid" not in alone
    folder = write_run(0.9)
    folder.parent.rename(tmp_path / "outputs")
    main(["--paper", "rd", "--table", "5"])
    assert "| Pre+OCE+MFM | grid " in capsys.readouterr().out


def test_files_and_formats(write_run, tmp_path, capsys):
    write_run(0.9)
    out = tmp_path / "tables"
    main([str(tmp_path / "runs"), "--paper", "rd", "--table", "5", "--out", str(out), "--format", "latex"])
    shown = capsys.readouterr()
    assert shown.out.rstrip("\n") == (out / "rd_table5.tex").read_text().rstrip("\n")
    assert sorted(path.name for path in out.iterdir()) == ["rd_table5.csv", "rd_table5.md", "rd_table5.tex"]
    assert [line.rsplit("/", 1)[1] for line in shown.err.splitlines()] == [
        "rd_table5.md",
        "rd_table5.csv",
        "rd_table5.tex",
    ]


def test_a_paper_without_a_table_prints_all(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["--paper", "mkd"])
    assert capsys.readouterr().out.count("\n## MKD, ") + 1 == 9


def test_what_is_skipped_stands_under_the_table(write_run, tmp_path, capsys, recwarn):
    write_run(0.9)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "results.json").write_text('{"status": "ok",')
    for options in ([], ["--paper", "rd", "--table", "5"]):
        main([str(tmp_path), *options])
        assert f"- {tmp_path}/half/results.json is skipped: " in capsys.readouterr().out
    assert not recwarn.list


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "kdad: nowhere: no such folder"),
        ([], "kdad: no results.json of a run below ./outputs, which does not exist"),
        (["."], "kdad: no results.json of a run below ."),
        (["--table", "5"], "kdad: --table and --quoted need --paper: one of rd, mkd, stpm, dskd"),
        (["--paper", "rd", "--table", "8"], "kdad: rd has no table '8'; there are: 1, 2, 3"),
        (["--paper", "ad"], "invalid choice: 'ad'"),
    ],
)
def test_errors_name_what_to_do(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_results_of_any_size(write_run, tmp_path, capsys):
    """Numbers that JSON writes as whole ones, and keys of later versions."""
    folder = write_run(1)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"image_auroc": 1, "new_key": {"a": [1]}}))
    main([str(tmp_path)])
    assert "100.00" in capsys.readouterr().out


def test_tests_of_corrupted_images_are_no_detectors():
    configs = [{"corruption": "none"}, {"corruption": "blur"}, {}]
    runs = pd.DataFrame({"config": configs})
    kept = leave_out_corrupted(runs)
    assert list(kept.index) == [0, 2] and "left out: 1 run with corruption=" in kept.attrs["skipped"][0]
    assert len(leave_out_corrupted(runs.iloc[[1]])) == 1 and len(leave_out_corrupted(runs.iloc[[0, 2]])) == 2
