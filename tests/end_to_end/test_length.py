"""How long training lasts and at which rate: schedules and patience."""

import json

import pytest

from kdad.engine.checkpoint import Checkpoint


def rates(folder):
    (optimizer,) = Checkpoint.load(folder / "checkpoints/last.ckpt").content["optimizer_states"]
    return optimizer["param_groups"][0]["lr"]


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        (["scheduler=none"], 0.005),
        (["scheduler=cosine", "scheduler.eta_min=0.001"], 0.001),
        (["scheduler=step", "scheduler.step_size=1"], 0.00005),
        (["scheduler=exponential", "scheduler.gamma=0.5"], 0.00125),
    ],
)
def test_a_schedule_moves_the_rate_epoch_by_epoch(start, given, rate):
    results, folder = start(*given, "trainer.max_epochs=2")
    assert results["status"] == "ok" and rates(folder) == pytest.approx(rate)


def test_training_ends_where_validation_has_lost_patience(start):
    """At a rate of 0, and without norms whose statistics move, the first epoch is the best: two more follow, of twenty."""
    given = ["val_fraction=0.3", "patience=2", "trainer.max_epochs=20", "optimizer.lr=0.0", "model=mkd"]
    results, folder = start(*given, "normalisation=auto", "average_epochs=1")
    assert results["epochs"] == 3 and results["status"] == "ok"
    assert Checkpoint.load(folder / "checkpoints/last.ckpt").epochs == 3


@pytest.mark.parametrize(
    "limit",
    [
        ["+trainer.max_steps=2", "trainer.max_epochs=9", "val_fraction=0"],
        ["patience=2", "optimizer.lr=0.0", "trainer.max_epochs=20", "val_fraction=0.3", "model=mkd"],
    ],
    ids=["max_steps", "patience"],
)
def test_a_run_that_was_killed_before_its_results_ends_as_it_had_ended(command, tiny_mvtec, tmp_path, limit):
    """What ended it before its last epoch ends it when it goes on, without an epoch more."""
    tiny = [
        "model=stpm", "dataset=mvtec", f"dataset.root={tiny_mvtec}", "category=tile", "backbone=resnet18", "backbone.name=test_resnet.r160_in1k",
        "backbone.pretrained=false", "image_size=64", "batch_size=4", "trainer.accelerator=cpu", "pictures=0",
        "logger=none", "monitor=null", "average_epochs=1", "normalisation=auto", "checkpoint_seconds=0",
        "hydra.run.dir=run",
    ]  # fmt: skip
    assert command(*tiny, *limit) == 0
    run = tmp_path / "run"
    before, scores = json.loads((run / "results.json").read_text()), (run / "scores.csv").read_bytes()
    for name in ("results.json", "scores.csv", "checkpoints/tested.ckpt"):
        (run / name).unlink()
    assert command("ckpt_path=run/checkpoints/last.ckpt") == 0
    after = json.loads((run / "results.json").read_text())
    assert (run / "scores.csv").read_bytes() == scores and (run / "checkpoints/tested.ckpt").is_file()
    for key in ("status", "epochs", "tested_epoch", "config_hash", "image_auroc", "image_threshold"):
        assert after.get(key) == before.get(key), key
