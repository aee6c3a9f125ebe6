"""Runs that can be trusted: no look at test data, resuming, checkpoints, collapse."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from kdad.cli import task_overrides, with_stored_overrides
from kdad.errors import UserError
from kdad.evaluate import evaluate
from kdad.training import load_checkpoint

STPM = ["model=stpm", "optimizer.lr=0.05", "checkpoint_seconds=0", "val_fraction=0.25"]


def weights(folder, name="tested"):
    return load_checkpoint(folder / "checkpoints" / f"{name}.ckpt")["state_dict"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("model", [["model=rd"], STPM])
def test_test_labels_and_masks_change_nothing_that_was_trained(start, tiny_mvtec, tmp_path, model):
    """Swap the test folders, so that every label turns over, and turn the masks upside down."""
    permuted = tmp_path / "permuted"
    shutil.copytree(tiny_mvtec, permuted)
    test = permuted / "tile/test"
    (test / "good").rename(test / "away")
    (test / "square").rename(test / "good")
    (test / "away").rename(test / "square")
    for mask in (permuted / "tile/ground_truth/square").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    before, a = start(*model, "trainer.max_epochs=3", folder="a")
    after, b = start(*model, "trainer.max_epochs=3", f"dataset.root={permuted}", folder="b")
    assert before["image_auroc"] != after["image_auroc"]  # the change was seen by the metrics
    assert equal(weights(a), weights(b)) and equal(weights(a, "last"), weights(b, "last"))
    assert before["tested_epoch"] == after["tested_epoch"]


def test_the_checkpoint_of_the_lowest_validation_loss_is_tested(start):
    """With a learning rate that soon diverges the best epoch is not the last."""
    results, folder = start(*STPM, "optimizer.lr=2.0", "trainer.max_epochs=6")
    with open(folder / "log" / "metrics.csv") as file:
        losses = {int(r["epoch"]): float(r["val_loss"]) for r in csv.DictReader(file) if r["val_loss"]}
    best = min(losses, key=losses.get)
    assert len(losses) == 6 and results["tested_epoch"] == best + 1
    assert equal(weights(folder, "best"), weights(folder))
    assert equal(weights(folder, "last"), weights(folder)) == (best == 5)


@pytest.mark.parametrize("model", [["model=rd"], STPM])
def test_a_resumed_run_is_the_uninterrupted_one(start, model):
    whole, a = start(*model, "trainer.max_epochs=4", "checkpoint_seconds=0", folder="whole")
    start(*model, "trainer.max_epochs=2", "checkpoint_seconds=0", folder="parts")
    path = a.parent / "parts" / "checkpoints" / "last.ckpt"
    first_log = (a.parent / "parts" / "log" / "metrics.csv").read_bytes()
    parts, b = start(*model, "trainer.max_epochs=4", "checkpoint_seconds=0", f"ckpt_path={path}", folder="parts")
    assert (a / "scores.csv").read_bytes() == (b / "scores.csv").read_bytes()
    assert equal(weights(a), weights(b)) and equal(weights(a, "last"), weights(b, "last"))
    assert whole["tested_epoch"] == parts["tested_epoch"] and parts["epochs"] == 4
    # The earlier log stays as it was, the later one holds the later epochs.
    assert (b / "log" / "metrics.csv").read_bytes() == first_log
    with open(b / "log_2" / "metrics.csv") as file:
        assert {row["epoch"] for row in csv.DictReader(file) if row["loss"]} == {"2", "3"}


def test_a_checkpoint_holds_plain_values_and_its_own_configuration(start):
    _, folder = start("model=rd")
    for name in ("last", "tested"):
        checkpoint = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["kdad"]["config"]["dataset"]["image_size"] == "${image_size}"
    assert "optimizer_states" not in checkpoint and checkpoint["kdad"]["overrides"] == task_overrides() == []


def test_files_that_are_no_checkpoints(start, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "bad.ckpt"
    _, folder = start("model=rd")
    good = (folder / "checkpoints" / "last.ckpt").read_bytes()
    for content, message in (
        ({"state_dict": Payload()}, "plain values"), ({"state_dict": {}}, "not a checkpoint"), (good[:-1000], "plain values"),
    ):  # fmt: skip
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(UserError, match=message):
            start("model=rd", f"ckpt_path={path}", folder="refused")
    with pytest.raises(UserError, match="no such file"):
        start("model=rd", "ckpt_path=nowhere.ckpt", folder="refused")
    assert not (tmp_path / "ran").exists()


def test_monitors_are_training_quantities(start):
    for wrong in ("monitor=image_auroc", "monitor=val_loss"):  # the second without a validation part
        with pytest.raises(UserError, match="monitor="):
            start("model=rd", wrong)


# Evaluate --------------------------------------------------------------------------------------------------------


def again(start, folder, *overrides):
    """evaluate() with the configuration that `start` would run."""
    import kdad.run
    import tests.end_to_end.conftest as conftest

    kept, conftest.run = conftest.run, evaluate
    try:
        return start(f"ckpt_path={folder / 'checkpoints/tested.ckpt'}", *overrides, folder="evaluated")
    finally:
        conftest.run = kept
        assert kept is kdad.run.run


def test_evaluate_repeats_the_test_of_a_run(start):
    run, a = start(*STPM, "trainer.max_epochs=2")
    results, b = again(start, a, *STPM)
    assert (a / "scores.csv").read_bytes() == (b / "scores.csv").read_bytes()
    same = {"image_auroc", "pixel_auroc", "pro", "tested_epoch", "weights_fingerprint", "n_test", "category"}
    assert {k: run[k] for k in same} == {k: results[k] for k in same} and results["status"] == "ok"
    assert sorted(p.name for p in b.iterdir()) == ["config.yaml", "curves.npz", "maps", "results.json", "scores.csv"]


def test_evaluate_with_other_levels_map_size_and_root(start, tiny_mvtec, tmp_path):
    _, folder = start(*STPM)
    scores = {(folder / "scores.csv").read_text()}
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_mvtec, copy)
    for override in ("model.score_levels=[2,3]", "model.map_size=16", f"dataset.root={copy}"):
        _, found = again(start, folder, *STPM, override)
        scores.add((found / "scores.csv").read_text())
    assert len(scores) == 4


def test_evaluate_refuses_other_weights_and_other_networks(start):
    _, folder = start("model=rd")
    with pytest.raises(UserError, match="fingerprint"):
        again(start, folder, "model=rd", "seed=5")  # random teacher weights follow the seed
    with pytest.raises(UserError, match="do not fit this configuration"):
        again(start, folder, "model=rd", "model.bottleneck=oce")
    with pytest.raises(UserError, match="ckpt_path=.* is needed"):
        again(start, folder, "model=rd", "ckpt_path=null")


# Collapse ----------------------------------------------------------------------------------------------------------


def test_constant_scores_are_an_error_not_one_half(start, monkeypatch):
    from kdad.models.base import Detection
    from kdad.models.rd import RD

    def constant(self, images):
        return Detection(torch.zeros(len(images), 1, 64, 64), torch.ones(len(images)))

    monkeypatch.setattr(RD, "forward", constant)
    with pytest.raises(UserError, match="Collapsed: the score of every test image is 1.0"):
        start("model=rd")

    monkeypatch.setattr(RD, "forward", lambda self, x: Detection(torch.zeros(len(x), 1, 64, 64), x.mean(dim=(1, 2, 3))))
    with pytest.raises(UserError, match="Collapsed: every anomaly map is 0.0"):
        start("model=rd")

    monkeypatch.setattr(RD, "forward", lambda self, x: Detection(torch.full((len(x), 1, 64, 64), torch.nan), x.mean(dim=(1, 2, 3))))
    with pytest.raises(UserError, match="The score of .*png is NaN"):
        start("model=rd")


# The command line ------------------------------------------------------------------------------------------------------


def command(tiny_mvtec, *arguments, module="kdad.run", model="rd"):
    shared = [
        f"dataset.root={tiny_mvtec}", "dataset=mvtec", "category=tile", "backbone=resnet18", "backbone.pretrained=false",
        "image_size=64", "batch_size=4", "trainer.accelerator=cpu", f"model={model}",
    ]  # fmt: skip
    return [sys.executable, "-m", module, *(shared if module == "kdad.run" else []), *arguments]


def call(*arguments, cwd):
    return subprocess.run(arguments[0], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)


def test_a_sweep_goes_on_and_can_be_completed(tiny_mvtec, tmp_path):
    """One of three jobs fails; then skip_done runs only what is not complete."""
    arguments = ["-m", "trainer.max_epochs=1", "image_size=64,100,32", "hydra.sweep.dir=sweep", "pictures=0"]
    result = call(command(tiny_mvtec, *arguments), cwd=tmp_path)
    assert result.returncode == 2 and "1 of the sweep's jobs failed" in result.stderr
    assert "image_size=100" in result.stderr.split("jobs failed")[1] and "must be a multiple of 32" in result.stderr
    found = [json.loads((tmp_path / "sweep" / str(i) / "results.json").read_text()) for i in range(3)]
    assert [f["status"] for f in found] == ["ok", "failed", "ok"] and "multiple of 32" in found[1]["error"]

    times = [(tmp_path / "sweep" / str(i) / "results.json").stat().st_mtime_ns for i in range(3)]
    result = call(command(tiny_mvtec, *arguments, "skip_done=true", "logger=none"), cwd=tmp_path)
    assert result.returncode == 2 and result.stdout.count("Done already") == 2
    later = [(tmp_path / "sweep" / str(i) / "results.json").stat().st_mtime_ns for i in range(3)]
    assert [a == b for a, b in zip(times, later)] == [True, False, True]


def test_resume_and_evaluate_need_only_the_checkpoint(tiny_mvtec, tmp_path):
    folder = tmp_path / "first"
    call(command(tiny_mvtec, "trainer.max_epochs=1", f"hydra.run.dir={folder}"), cwd=tmp_path)
    last = f"ckpt_path={folder / 'checkpoints/last.ckpt'}"
    result = call([sys.executable, "-m", "kdad.run", last, "trainer.max_epochs=2"], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "results.json").read_text())["epochs"] == 2
    tested = f"ckpt_path={folder / 'checkpoints/tested.ckpt'}"
    result = call([sys.executable, "-m", "kdad.evaluate", "-m", tested, "model.score_levels=[1],[2,3]"], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = sorted(folder.glob("evaluations/*/*/results.json"))
    assert [json.loads(f.read_text())["status"] for f in found] == ["ok", "ok"]
    assert not (tmp_path / "outputs").exists()


def test_stored_overrides_yield_to_the_command_line(start, tmp_path, monkeypatch):
    monkeypatch.setattr("kdad.run.task_overrides", lambda: ["model=rd", "seed=3", "+debug=cpu", "ckpt_path=old"])
    _, folder = start("model=rd")
    path = folder / "checkpoints" / "last.ckpt"
    found = with_stored_overrides(["-m", f"ckpt_path={path}", "seed=5"], "")
    assert found == [
        "-m", "model=rd", "+debug=cpu", f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}", f"ckpt_path={path}", "seed=5",
    ]  # fmt: skip
    assert with_stored_overrides(["seed=5", "-m"], "") == ["seed=5", "-m"]


@pytest.mark.slow
def test_killed_at_any_moment_nothing_truncated_is_believed(tiny_mvtec, tmp_path):
    """kill -9 at eight moments of a run: what is there afterwards is whole, and the run can be completed."""
    folder = tmp_path / "run"
    arguments = ["trainer.max_epochs=40", "checkpoint_seconds=0", f"hydra.run.dir={folder}"]
    generator = np.random.default_rng(0)
    seen = set()
    for delay in sorted(generator.uniform(0, 6, 8)):
        resume = [f"ckpt_path={folder / 'checkpoints/last.ckpt'}"] if (folder / "checkpoints/last.ckpt").exists() else []
        process = subprocess.Popen(
            command(tiny_mvtec, *arguments, *resume), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path
        )
        started = time.monotonic()
        while not (folder / "config.yaml").exists() and time.monotonic() - started < 60:
            time.sleep(0.05)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for name in ("results.json", "config.yaml"):
            if (folder / name).exists():
                (json.loads if name.endswith("json") else str)((folder / name).read_text())
        for path in (folder / "checkpoints").glob("*.ckpt"):
            seen.add((path.name, load_checkpoint(path)["epoch"]))
        (folder / "config.yaml").unlink(missing_ok=True)
    assert len(seen) > 1, "the kills never met a checkpoint"
    result = call(command(tiny_mvtec, *arguments, f"ckpt_path={folder / 'checkpoints/last.ckpt'}"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    whole = call(command(tiny_mvtec, "trainer.max_epochs=40", f"hydra.run.dir={tmp_path / 'whole'}"), cwd=tmp_path)
    assert whole.returncode == 0
    assert (folder / "scores.csv").read_bytes() == (tmp_path / "whole" / "scores.csv").read_bytes()
