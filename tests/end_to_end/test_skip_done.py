"""What is done stays: skip_done, one job at a time in a folder, resuming with other settings."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kdad.engine.checkpoint import Checkpoint
from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from kdad.settings.compose import compose, resolve
from kdad.settings.roles import config_hash
from kdad.storage.lock import hold_folder

TINY = [
    "model=stpm", "dataset=mvtec", "category=tile", "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false", "image_size=64",
    "batch_size=4", "trainer.max_epochs=1", "trainer.accelerator=cpu", "optimizer.lr=0.05", "pictures=1", "logger=none",
    "val_fraction=0", "monitor=null",
]  # fmt: skip


@pytest.fixture
def tiny(tiny_mvtec):
    return [*TINY, f"dataset.root={tiny_mvtec}"]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".kdad", ".lock")
    }


def test_a_sweep_that_grows_overwrites_nothing(command, tiny, tmp_path, capsys):
    """Its jobs are numbered anew, so that seed 1 with batch size 4 is no. 3 now, and no. 2 is a new one."""
    fixed, folder = [o for o in tiny if not o.startswith("batch_size")], tmp_path / "sweep"
    sweep = ["-m", *fixed, "seed=0,1", "hydra.sweep.dir=sweep"]
    assert command(*sweep, "batch_size=4,5") == 0
    before = {name: files(folder / name) for name in "0123"}
    assert all("results.json" in map(str, found) for found in before.values())
    (folder / "notes").mkdir()
    for place, foreign in ((folder, "[1]"), (folder / "notes", "half {")):  # nor does it stumble over others' files
        (place / "results.json").write_text(foreign)

    assert command(*sweep, "batch_size=4,5,6", "skip_done=true") == 0
    assert capsys.readouterr().out.count("Done already") == 4
    assert {name: files(folder / name) for name in "0123"} == before
    # The new ones are no. 2 and no. 5.
    assert sorted(p.parent.name for p in folder.glob("[0-9]*/results.json")) == ["0", "1", "2", "2_2", "3", "5"]
    assert {results(folder / name)["seed"] for name in ("2_2", "5")} == {0, 1}
    hashes = {results(p.parent)["config_hash"] for p in folder.glob("[0-9]*/results.json")}
    assert len(hashes) == 6

    assert command(*sweep, "batch_size=4,5,6", "skip_done=true") == 0
    assert capsys.readouterr().out.count("Done already") == 6


def test_the_first_place_without_complete_results(tmp_path):
    folder, mine = RunFolder(tmp_path / "run"), "mine"
    assert folder.find_free(mine).path == tmp_path / "run"
    for name, status, of in (("run", "ok", mine), ("run_2", "failed", "another"), ("run_3", "failed", mine)):
        RunFolder(tmp_path / name).write_results({"status": status, "config_hash": of})
    assert folder.find_free(mine).path == tmp_path / "run_3"  # another job's failure stays on record


def test_one_run_in_a_folder_of_its_own(command, tiny, tmp_path, capsys):
    """The same command twice trains once; another configuration goes beside it, and is found there."""
    folder = tmp_path / "mine"
    once = [*tiny, "hydra.run.dir=mine", "skip_done=true"]
    folder.mkdir()
    (folder / "results.json").write_text("[1]")  # another program's, which stays
    assert command(*once) == 0 and (folder / "results.json").read_text() == "[1]"
    (folder / "results.json").unlink()
    shutil.rmtree(tmp_path / "mine_2")
    assert command(*once) == 0
    written = files(folder)
    assert command(*once) == 0 and command(*once, "seed=1") == 0 and command(*once, "seed=1") == 0
    assert capsys.readouterr().out.count("Done already") == 2
    assert files(folder) == written and results(tmp_path / "mine_2")["seed"] == 1
    assert not (tmp_path / "mine_3").exists()
    # Without skip_done complete results are replaced only where that is asked for.
    capsys.readouterr()
    assert command(*tiny, "hydra.run.dir=mine", "seed=2") == 2
    assert "complete results of another configuration" in capsys.readouterr().err
    assert {name: text for name, text in files(folder).items() if name.name != "refused.json"} == written
    assert command(*tiny, "hydra.run.dir=mine", "seed=2", "overwrite=true") == 0 and results(folder)["seed"] == 2


def test_a_sweep_that_was_interrupted_goes_on_where_its_job_was(command, tiny, tmp_path, capsys, monkeypatch):
    """A job that was killed in its third epoch trains the rest, and comes to what it would have come to undisturbed."""
    long = [*tiny, "trainer.max_epochs=4", "checkpoint_seconds=0"]
    sweep = ["-m", *long, "seed=0,1", "hydra.sweep.dir=sweep", "skip_done=true"]
    with monkeypatch.context() as patch:

        def end(training, trainer, *rest):
            if trainer.current_epoch == 2 and training.seed == 1:
                raise SystemExit(137)

        patch.setattr("kdad.engine.fit.Training.on_train_batch_end", end)
        assert command(*sweep) == 137
    job = tmp_path / "sweep/1"
    (job / "results.json").unlink()  # a kill leaves none
    # Without skip_done nothing of it is removed.
    before = files(job)
    assert command(*long, "seed=1", "hydra.run.dir=sweep/1") == 2
    assert "overwrite=true removes it" in capsys.readouterr().err
    assert {name: data for name, data in files(job).items() if name.name != "refused.json"} == before
    # Nor does another configuration take its place.
    assert RunFolder(job).find_free("another").path.name == "1_2"

    assert command(*sweep) == 0
    said = capsys.readouterr().out
    assert said.count("Done already") == 1 and said.count("Goes on: ") == 1 and "Epoch 4/4" in said
    assert command(*long, "seed=1", "hydra.run.dir=whole") == 0
    assert files(job)[Path("scores.csv")] == files(tmp_path / "whole")[Path("scores.csv")]
    assert results(job)["config_hash"] == results(tmp_path / "whole")["config_hash"]


def test_a_run_that_went_on_with_other_settings_is_not_believed(command, tiny, tmp_path, capsys):
    def hashed(*overrides):
        return config_hash(resolve(compose(*tiny, *overrides)))

    folder = tmp_path / "run"
    last, again = f"ckpt_path={folder}/checkpoints/last.ckpt", "overwrite=true"
    assert command(*tiny, "hydra.run.dir=run") == 0
    # Longer is what an uninterrupted run would have been.
    assert command(last, again, "trainer.max_epochs=2") == 0
    assert results(folder)["config_hash"] == hashed("trainer.max_epochs=2")
    assert "changed_when_resumed" not in results(folder)
    # What changes on the way is no run of either configuration, also when it goes on after that with nothing changed.
    for more in (["trainer.max_epochs=3", "optimizer.lr=0.01"], ["trainer.max_epochs=4"]):
        assert command(last, again, *more) == 0
        assert results(folder)["config_hash"] is None and results(folder)["changed_when_resumed"] == "optimizer.lr"
    capsys.readouterr()
    assert command(*tiny, "hydra.run.dir=run", "trainer.max_epochs=4", "optimizer.lr=0.01", "skip_done=true") == 0
    assert "Done already" not in capsys.readouterr().out
    assert results(tmp_path / "run_2")["config_hash"] == hashed("trainer.max_epochs=4", "optimizer.lr=0.01")


def test_training_longer_leaves_the_complete_run_as_it_is(command, tiny, tmp_path, capsys):
    """The longer run goes beside it, with the checkpoints that it needs, and the same again is done already."""
    folder, longer = tmp_path / "run", tmp_path / "run_2"
    assert command(*tiny, "hydra.run.dir=run", "val_fraction=0.25", "monitor=val_loss") == 0
    before = files(folder)
    last = f"ckpt_path={folder}/checkpoints/last.ckpt"
    assert command(last, "trainer.max_epochs=2") == 0
    assert (
        files(folder) == before and results(longer)["epochs"] == 2 and (longer / "checkpoints" / "best.ckpt").exists()
    )
    capsys.readouterr()
    assert command(last) == 0 and "Done already" in capsys.readouterr().out and files(folder) == before
    assert command(f"ckpt_path={longer}/checkpoints/last.ckpt", "trainer.max_epochs=3") == 0
    assert results(tmp_path / "run_2_2")["epochs"] == 3 and results(longer)["epochs"] == 2


def test_a_finished_run_is_found_after_its_data_have_moved_and_with_the_bar_hidden(
    command, tiny, tiny_mvtec, tmp_path, capsys
):
    shutil.copytree(tiny_mvtec, tmp_path / "data")
    once = [*tiny, f"dataset.root={tmp_path / 'data'}", "hydra.run.dir=run"]
    assert command(*once) == 0
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    for same in (
        "trainer.log_every_n_steps=5",
        "+trainer.enable_progress_bar=false",
        "metrics.memory_gb=8",
        "speed=off",
    ):
        assert command(*once, f"dataset.root={tmp_path / 'elsewhere'}", "skip_done=true", same) == 0
        assert "Done already" in capsys.readouterr().out
    last = f"ckpt_path={tmp_path / 'run/checkpoints/last.ckpt'}"
    moved = [f"dataset.root={tmp_path / 'elsewhere'}", "+trainer.enable_progress_bar=false"]
    assert command(last, *moved, "trainer.max_epochs=2") == 0
    assert results(tmp_path / "run_2")["config_hash"] and "changed_when_resumed" not in results(tmp_path / "run_2")


def test_a_schedule_may_depend_on_how_long_training_lasts():
    now = {"trainer": {"max_epochs": 4}, "average_epochs": 1, "seed": 0}
    made_by = {"config": {"trainer": {"max_epochs": 2}, "average_epochs": 2, "seed": 0}}
    for schedules, changed in (([], []), ([{}], ["trainer.max_epochs"])):
        checkpoint = Checkpoint(Path("last.ckpt"), {"kdad": made_by, "lr_schedulers": schedules})
        assert checkpoint.changed_when_resumed(now) == changed


# One job at a time in a folder ----------------------------------------------------------------------------------


def test_two_jobs_do_not_share_a_folder(start, tmp_path):
    _, folder = start("model=rd", "pictures=0")
    before = files(folder)
    with hold_folder(folder), pytest.raises(UserError, match=f"{folder}: another job is at work in this folder"):
        start("model=rd", "pictures=0", "seed=1")
    assert files(folder) == before
    with hold_folder(folder), hold_folder(folder, needed=False):  # the further processes of one job
        pass
    results, _ = start("model=rd", "pictures=0", "seed=1")
    assert results["seed"] == 1


def test_a_killed_job_holds_no_folder(tmp_path):
    code = f"import pathlib, time\nfrom kdad.storage.lock import hold_folder\nwith hold_folder(pathlib.Path({str(tmp_path)!r})):\n"
    code += "    print('held', flush=True)\n    time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another job"), hold_folder(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    with hold_folder(tmp_path):
        pass
