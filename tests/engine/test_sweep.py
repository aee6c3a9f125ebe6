"""What a sweep shows: which job of how many, what it has of its own, and what each has come to."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.types import RunMode

from kdad.engine.run_folder import RunFolder
from kdad.engine.sweep import Sweep, note_results
from kdad.settings.compose import DIGITS, number_job

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
    sweep = Sweep(["seed=0,1,2,3"])
    RunFolder(tmp_path / "0").write_results({"status": "ok", "pro": 0.5, "image_auroc": 0.25, "pixel_auroc": None})
    for name, value in (("a", 0.5), ("b", 1.0)):
        RunFolder(tmp_path / "1" / name).write_results({"status": "ok", "pro": value})
    (tmp_path / "2").mkdir()
    elsewhere = tmp_path / "another_sweep" / "5"
    RunFolder(elsewhere).write_results({"status": "ok", "pro": 0.125})
    places = ([tmp_path / "0"], [tmp_path / "1" / "a", tmp_path / "1" / "b"], [tmp_path / "2"], [elsewhere])
    for number, status in enumerate(("ok", "ok", "failed", "ok")):
        job = hydra_cfg([f"seed={number}"], tmp_path / str(number))
        sweep.begin(job)
        for place in places[number]:
            note_results(RunFolder(place))
        sweep.end(job, status)
    capsys.readouterr()
    sweep.show()
    rows = [line for line in capsys.readouterr().out.splitlines() if "seed=" in line]
    assert "0.2500" in rows[0] and "0.5000" in rows[0] and "0.7500" in rows[1] and "failed" in rows[2]
    assert "0.1250" in rows[3] and str(elsewhere) in rows[3]  # done already, by another sweep


def test_what_the_cache_saved_is_added_up_over_the_jobs_that_ran(tmp_path, capsys):
    """Not over those that were done before the sweep began."""
    sweep = Sweep([])
    for name, spent, saved, age in (("a", 3.0, 0.0, 0), ("b", 0.5, 2.25, 0), ("c", 100.0, 100.0, 3600)):
        file = tmp_path / name / "results.json"
        file.parent.mkdir()
        file.write_text(json.dumps({"status": "ok", "cache_seconds": spent, "cache_saved": saved}))
        os.utime(file, (sweep.began + 1 - age,) * 2)
        sweep.rows.append((name, "ok", file.parent, [RunFolder(file.parent)]))
    sweep.show()
    said = " ".join(capsys.readouterr().out.split())
    assert "Decoding and the teacher took 3.5 s; what was in the cache saved 2.2 s." in said


def test_a_long_name_is_not_cut_in_a_log(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    sweep, name = (
        Sweep(["model.gradient_through_teacher=true,false", "seed=0,1"]),
        "model.gradient_through_teacher=true",
    )
    sweep.end(hydra_cfg([name, "seed=1"], tmp_path), "ok")
    sweep.show()
    assert f"{name} seed=1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["seed=range(0,10)"], ["0", "9"]),
        (["seed=range(0,11)"], ["00", "10"]),
        (["+experiment=rd/table5", "seed=0,1"], ["00", "09"]),  # three bottlenecks and fifteen categories
        (["sweep=optuna", "hydra.sweeper.n_trials=101", "seed=0"], ["000", "100"]),
    ],
)
def test_the_folders_of_jobs_sort_as_their_numbers(monkeypatch, given, names):
    monkeypatch.setenv(DIGITS, "1")
    Sweep(given).set_digits("run")
    assert [number_job(int(name)) for name in names] == names


def test_the_best_trial_of_a_search_is_told(tmp_path, capsys):
    sweep = Sweep(["optimizer.lr=0.1,0.2"])
    (tmp_path / "optimization_results.yaml").write_text("best_params: {optimizer.lr: 0.2}\nbest_value: 0.5\n")
    sweep.end(hydra_cfg(["optimizer.lr=0.2"], tmp_path / "0"), "ok")
    sweep.show()
    assert "Best trial: optimizer.lr=0.2, 0.5" in capsys.readouterr().out
