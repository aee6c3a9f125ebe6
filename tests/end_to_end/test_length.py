"""How long training lasts and at which rate: schedules and patience."""

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
