"""The command line: sweeps that go on, resuming, what a checkpoint brings, kill -9."""

import json

import hydra
import pytest

from kdad.engine.launch import add_stored
from kdad.settings.compose import CONF
from tests.processes import run_module


def options(tiny_mvtec, *more, model="rd"):
    return [
        f"dataset.root={tiny_mvtec}", "dataset=mvtec", "category=tile", "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false",
        "image_size=64", "batch_size=4", "trainer.accelerator=cpu", f"model={model}", *more,
    ]  # fmt: skip


def test_a_sweep_goes_on_and_can_be_completed(tiny_mvtec, tmp_path):
    """One of three jobs fails; then skip_done runs only what is not complete."""
    arguments = ["-m", "trainer.max_epochs=1", "image_size=64,100,32", "hydra.sweep.dir=sweep", "pictures=0"]
    result = run_module("kdad.run", options(tiny_mvtec, *arguments), tmp_path)
    assert result.returncode == 2 and "1 of the sweep's jobs failed" in result.stderr
    assert "image_size=100" in result.stderr.split("jobs failed")[1] and "must be a multiple of 32" in result.stderr
    found = [json.loads((tmp_path / "sweep" / str(i) / "results.json").read_text()) for i in range(3)]
    assert [f["status"] for f in found] == ["ok", "failed", "ok"] and "multiple of 32" in found[1]["error"]

    times = [(tmp_path / "sweep" / str(i) / "results.json").stat().st_mtime_ns for i in range(3)]
    result = run_module("kdad.run", options(tiny_mvtec, *arguments, "skip_done=true", "logger=none"), tmp_path)
    assert result.returncode == 2 and result.stdout.count("Done already") == 2
    later = [(tmp_path / "sweep" / str(i) / "results.json").stat().st_mtime_ns for i in range(3)]
    assert [a == b for a, b in zip(times, later, strict=False)] == [True, False, True]


def test_sweeps_started_in_the_same_second_share_no_folder():
    """Nor do single runs."""
    for _ in range(5):
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            found = [hydra.compose("run", return_hydra_config=True) for _ in range(2)]
            sweeps, runs = [c.hydra.sweep.dir for c in found], [c.hydra.run.dir for c in found]
        if sweeps[0].split(".")[0] == sweeps[1].split(".")[0]:
            break
    else:
        pytest.fail("never two in one second")
    assert sweeps[0] != sweeps[1] and runs[0] != runs[1]


def test_resume_and_evaluate_need_only_the_checkpoint(tiny_mvtec, tmp_path):
    folder = tmp_path / "first"
    run_module("kdad.run", options(tiny_mvtec, "trainer.max_epochs=1", f"hydra.run.dir={folder}"), tmp_path)
    last = f"ckpt_path={folder / 'checkpoints/last.ckpt'}"
    result = run_module("kdad.run", [last, "trainer.max_epochs=2"], tmp_path)
    assert result.returncode == 0, result.stderr
    epochs = [json.loads((tmp_path / name / "results.json").read_text())["epochs"] for name in ("first", "first_2")]
    assert epochs == [1, 2]  # the complete run stays as it is
    tested = f"ckpt_path={folder / 'checkpoints/tested.ckpt'}"
    result = run_module("kdad.evaluate", ["-m", tested, "model.score_levels=[1],[2,3]"], tmp_path)
    assert result.returncode == 0, result.stderr
    found = sorted(folder.glob("evaluations/*/*/results.json"))
    assert [json.loads(f.read_text())["status"] for f in found] == ["ok", "ok"]
    assert not (tmp_path / "outputs").exists()


def test_stored_overrides_yield_to_the_command_line(start, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "kdad.engine.job.list_task_overrides", lambda cfg: ["model=rd", "seed=3", "+debug=cpu", "ckpt_path=old"]
    )
    _, folder = start("model=rd")
    path = folder / "checkpoints" / "last.ckpt"
    found = add_stored(["-m", f"ckpt_path={path}", "seed=5"], "")
    assert found == [
        "-m", "model=rd", "+debug=cpu", f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}", f"ckpt_path={path}", "seed=5",
    ]  # fmt: skip
    assert add_stored(["seed=5", "-m"], "") == ["seed=5", "-m"]


def test_a_group_takes_the_keys_of_the_one_before_with_it(start, monkeypatch):
    """Unless it is the stored one over again."""
    stored = [
        "model=rd", "model.sigma=2", "trainer=ddp", "trainer.devices=2", "+trainer.max_time=1", "trainer.max_epochs=1",
        "logger=tensorboard", "logger.version=tb",
    ]  # fmt: skip
    monkeypatch.setattr("kdad.engine.job.list_task_overrides", lambda cfg: stored)
    _, folder = start("model=rd")
    path = f"ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"

    def found(*given):
        return [o for o in add_stored([path, *given], "") if not o.startswith(("hydra.", "ckpt_path="))]

    assert found("seed=1") == [*stored, "seed=1"]
    same = ["trainer=ddp", "model=rd"]
    assert sorted(found(*same)) == sorted(stored)
    assert found("trainer=default", "logger=none") == [
        "model=rd", "model.sigma=2", "trainer.max_epochs=1", "trainer=default", "logger=none",
    ]  # fmt: skip
    assert found("model=stpm") == [*stored[2:], "model=stpm"]
