"""Detectors from outside the package run through the same core, untouched."""

import csv
from pathlib import Path

import pytest
import torch

from kdad.engine.checkpoint import Checkpoint
from tests.end_to_end.test_trust import equal, weights
from tests.processes import run_module

ROOT = Path(__file__).parents[2]
TOYS = ["plain", "noisy", "skips", "statistics"]


@pytest.mark.parametrize("toy", TOYS)
def test_it_trains_tests_and_resumes(start, toy):
    results, whole = start(f"model={toy}", "trainer.max_epochs=3", "checkpoint_seconds=0", folder="whole")
    assert results["status"] == "ok" and results["model"] == toy and 0 <= results["pro"] <= 1
    _, parts = start(f"model={toy}", "trainer.max_epochs=1", "checkpoint_seconds=0", folder="parts")
    last = parts / "checkpoints" / "last.ckpt"
    start(f"model={toy}", "trainer.max_epochs=3", "checkpoint_seconds=0", f"ckpt_path={last}", folder="parts")
    assert (whole / "scores.csv").read_bytes() == (parts / "scores.csv").read_bytes()
    assert equal(weights(whole), weights(parts))


def test_both_optimisers_step(start):
    _, untrained = start("model=skips", "trainer.max_epochs=1", "optimizer.lr=0", folder="a")
    _, trained = start("model=skips", "trainer.max_epochs=1", folder="b")
    before, after = weights(untrained), weights(trained)
    assert before.keys() == {f"{n}.{p}" for n in ("near", "skip") for p in ("weight", "bias")}
    assert not any(torch.equal(before[k], after[k]) for k in before)
    assert len(Checkpoint.load(trained / "checkpoints" / "last.ckpt").content["optimizer_states"]) == 2


def test_statistics_are_in_the_checkpoints(start):
    """Those of before the fit in the one to resume from; those of after it in the one that was tested."""
    results, folder = start("model=statistics", "trainer.max_epochs=2")
    last, tested = weights(folder, "last"), weights(folder)
    assert not torch.equal(last["mean"], torch.zeros_like(last["mean"])) and torch.equal(last["mean"], tested["mean"])
    assert last["highest"] == 1 and tested["highest"] != 1
    # After the fit the highest score of a training image is 1 by construction; the test saw the same scale.
    with open(folder / "scores.csv", newline="") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    assert 0.2 < min(scores) < 5


def test_the_printed_detector_runs(tiny_mvtec, tmp_path):
    """One file in the current folder, one YAML in a folder given by --config-dir."""
    text = (ROOT / "docs/extending.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    python = next(block for block in blocks if "class Mine" in block)
    config = text.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "mine.py").write_text(python)
    (tmp_path / "conf/model/mine.yaml").write_text(config)
    arguments = [
        "--config-dir", "conf", "model=mine", "dataset=mvtec",
        f"dataset.root={tiny_mvtec}", "category=tile", "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false",
        "image_size=64", "trainer.max_epochs=1", "trainer.accelerator=cpu", "hydra.run.dir=run",
    ]  # fmt: skip
    result = run_module("kdad.run", arguments, tmp_path)
    assert result.returncode == 0, result.stderr
    assert '"status": "ok"' in (tmp_path / "run" / "results.json").read_text()
