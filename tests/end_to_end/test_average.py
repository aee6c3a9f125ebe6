"""average_epochs: metrics are means over the last epochs' weights."""

import json
import statistics

import pytest

from kdad.engine.checkpoint import find_earlier
from kdad.engine.test import average
from kdad.errors import UserError
from tests.end_to_end.test_trust import again, equal, weights

METRICS = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "pro")
SHORT = ["model=statistics", "pictures=1", "optimizer.lr=0.01"]


def test_averaged():
    none = {"x": None, "x_reason": "none"}
    each = [{"pro": 0.25, "pro_error": 0.1, **none}, {"pro": 0.75, "pro_error": 0.2, **none}]
    assert average(each) == {
        "pro": 0.5, "pro_std": pytest.approx(0.125**0.5), "pro_error": pytest.approx(0.15), "average_epochs": 2, **none,
    }  # fmt: skip
    assert average(each[:1]) == {**each[0], "average_epochs": 1}


@pytest.fixture
def whole(start):
    return start(*SHORT, "trainer.max_epochs=4", "average_epochs=3", "+variants.same={}", folder="whole")


def kept(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("epoch_*"))


def test_means_are_those_of_runs_that_end_at_these_epochs(start, whole):
    """A run of n epochs ends with the weights that a longer one has after n."""
    alone = [start(*SHORT, f"trainer.max_epochs={n}", folder=str(n)) for n in (2, 3, 4)]
    results, folder = whole
    assert (results["average_epochs"], results["tested_epoch"], alone[0][0]["average_epochs"]) == (3, 4, 1)
    assert len({(place / "scores.csv").read_bytes() for _, place in alone}) == 3
    for metric in METRICS:
        values = [each[metric] for each, _ in alone]
        assert results[metric] == pytest.approx(statistics.fmean(values), abs=1e-12)
        assert results[f"{metric}_std"] == pytest.approx(statistics.stdev(values), abs=1e-12)
    # All else is of the last epoch, its statistics after fit too.
    assert (folder / "scores.csv").read_bytes() == (alone[-1][1] / "scores.csv").read_bytes()
    assert equal(weights(folder), weights(alone[-1][1]))
    assert kept(folder) == ["epoch_2.ckpt", "epoch_3.ckpt", "epoch_4.ckpt"] and kept(alone[-1][1]) == []
    assert all(not name.startswith("teacher.") for name in weights(folder, "epoch_2"))


def test_variants_and_evaluations_are_means_too(start, whole):
    results, folder = whole
    repeated, _ = again(start, folder, *SHORT, "trainer.max_epochs=4", "average_epochs=3")
    variant = json.loads((folder / "variants" / "same" / "results.json").read_text())
    keys = [*METRICS, "pro_std", "average_epochs", "tested_epoch"]
    assert [results[k] for k in keys] == [repeated[k] for k in keys] == [variant[k] for k in keys]
    last, _ = again(start, folder, *SHORT, "trainer.max_epochs=4", "average_epochs=1")
    assert last["average_epochs"] == 1 and last["pixel_auroc"] != results["pixel_auroc"]
    (folder / "checkpoints" / "epoch_3.ckpt").unlink()
    with pytest.raises(UserError, match="epoch_3.ckpt: no such file.*average_epochs=1"):
        again(start, folder, *SHORT, "trainer.max_epochs=4", "average_epochs=3")


def test_a_resumed_run_has_them_too(start, whole):
    """Also in another folder; one that grows longer drops what is not among the last any more."""
    results, folder = whole
    _, part = start(*SHORT, "trainer.max_epochs=3", "average_epochs=3", folder="part")
    assert kept(part) == ["epoch_1.ckpt", "epoch_2.ckpt", "epoch_3.ckpt"]
    last = f"ckpt_path={part}/checkpoints/last.ckpt"
    for name in ("elsewhere", "part"):
        resumed, there = start(*SHORT, "trainer.max_epochs=4", "average_epochs=3", last, folder=name)
        assert [resumed[m] for m in METRICS] == [results[m] for m in METRICS] and kept(there) == kept(folder)
        assert (there / "scores.csv").read_bytes() == (folder / "scores.csv").read_bytes()
    (part / "checkpoints" / "epoch_3.ckpt").unlink()
    with pytest.raises(UserError, match="epoch_3.ckpt: no such file"):
        start(*SHORT, "trainer.max_epochs=5", "average_epochs=3", last, folder="part")
    assert (part / "results.json").read_text().count('"ok"') == 1


def test_no_more_epochs_than_there_were(start, tmp_path):
    results, folder = start(*SHORT, "trainer.max_epochs=1", "average_epochs=10")
    assert (results["average_epochs"], results["tested_epoch"]) == (1, 1) and "pro_std" not in results
    assert find_earlier(folder / "checkpoints" / "tested.ckpt", 1, 10) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["monitor=val_loss", "val_fraction=0.25"], "monitor=val_loss tests one epoch's weights"),
        (["+trainer.max_steps=3"], "end training by trainer.max_epochs alone, found trainer.max_steps"),
        (["trainer.max_epochs=-1"], "found -1"),
        (["average_epochs=0"], "average_epochs=0: give a whole number, at least 1"),
    ],
)
def test_what_has_no_last_epochs(start, given, message):
    with pytest.raises(UserError, match=message):
        start(*SHORT, "average_epochs=2", *given)
