"""What a sweep shows: which job of how many, what it has of its own, and what each has come to."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.types import RunMode

from kdad.engine.run_folder import RunFolder
from kdad.engine.sweep import Sweep, read_mean

BASIC = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": None}


def hydra_cfg(task, folder=Path(), num=0, mode=RunMode.MULTIRUN, **sweeper):
    return SimpleNamespace(
        mode=mode,
        job=SimpleNamespace(num=num),
        overrides=SimpleNamespace(task=task),
        sweeper=BASIC | sweeper,
        runtime=SimpleNamespace(output_dir=str(folder)),
    )


@pytest.mark.parametrize(
    ("given", "params", "jobs"),
    [
        (["seed=0,1", "model=rd,stpm", "batch_size=4"], {}, 4),
        (["seed=range(0,5)"], {}, 5),
        (["+experiment=rd/table5"], {"seed": "0,1,2", "category": "a,b"}, 6),
        (["seed=7"], {"seed": "0,1,2", "category": "a,b"}, 2),  # the command line overrules the experiment
        (["levels=[1,2]"], {}, 1),
    ],
)
def test_jobs_are_counted(given, params, jobs):
    assert Sweep(given).count_jobs(hydra_cfg([], params=params)) == jobs


def test_a_search_has_no_number_beforehand():
    assert Sweep(["seed=0,1"]).count_jobs(hydra_cfg([], _target_="optuna")) == 0


def test_a_trial_of_a_search_is_told_by_what_was_drawn(capsys):
    interval = {"optimizer.lr": "tag(log, interval(1e-4, 1))"}
    Sweep(["model=rd"]).begin(hydra_cfg(["optimizer.lr=0.1", "model=rd"], num=2, params=interval, _target_="optuna"))
    assert "job 3: optimizer.lr=0.1\n" in capsys.readouterr().out


def test_a_job_is_told_by_what_it_has_of_its_own(capsys):
    sweep = Sweep(["seed=0,1", "model=rd"])
    sweep.begin(hydra_cfg(["seed=1", "model=rd"], num=1))
    assert "job 2 of 2: seed=1\n" in capsys.readouterr().out
    sweep.end(hydra_cfg(["seed=1", "model=rd"], num=1), "ok")
    sweep.begin(hydra_cfg(["seed=0", "model=rd"], num=0))
    assert "left: seed=0" in capsys.readouterr().out


def test_a_single_job_has_no_title_and_no_table(capsys):
    sweep = Sweep([])
    one = hydra_cfg(["seed=1"], mode=RunMode.RUN)
    sweep.begin(one)
    sweep.end(one, "ok")
    sweep.show()
    assert capsys.readouterr().out == ""


def test_the_table_has_each_jobs_metrics_and_means_over_categories(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    sweep = Sweep(["seed=0,1,2"])
    RunFolder(tmp_path / "0").write_results({"status": "ok", "pro": 0.5, "image_auroc": 0.25, "pixel_auroc": None})
    for name, value in (("a", 0.5), ("b", 1.0)):
        RunFolder(tmp_path / "1" / name).write_results({"status": "ok", "pro": value})
    (tmp_path / "2").mkdir()
    for number, status in enumerate(("ok", "ok", "failed")):
        sweep.end(hydra_cfg([f"seed={number}"], tmp_path / str(number)), status)
    sweep.show()
    rows = [line for line in capsys.readouterr().out.splitlines() if "seed=" in line]
    assert "0.2500" in rows[0] and "0.5000" in rows[0] and "0.7500" in rows[1] and "failed" in rows[2]
    assert read_mean(tmp_path / "1", "pro") == "0.7500"
