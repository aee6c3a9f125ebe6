"""Runs that can be trusted: no look at test data, resuming, checkpoints, collapse."""

import csv
import json
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from kdad.engine import signals
from kdad.engine.atomic_checkpoints import AtomicCheckpoints
from kdad.engine.checkpoint import Checkpoint
from kdad.engine.retest import retest
from kdad.errors import UserError
from kdad.evaluate import main as evaluate
from kdad.models.rd import RD
from kdad.models.steps import Steps
from kdad.results.read import read_runs
from tests.end_to_end.conftest import SMALL

STPM = ["model=stpm", "optimizer.lr=0.05", "checkpoint_seconds=0", "val_fraction=0.25"]


def weights(folder, name="tested"):
    return Checkpoint.load(folder / "checkpoints" / f"{name}.ckpt").content["state_dict"]


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
    decisions = [Checkpoint.load(f / "checkpoints/tested.ckpt").provenance["decision"] for f in (a, b)]
    assert decisions[0] == decisions[1] and decisions[0]["image_threshold"] == before["image_threshold"]
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
    checkpoint = Checkpoint.load(path).content
    checkpoint["callbacks"]["Training"]["seconds"] += 1000
    torch.save(checkpoint, path)
    parts, b = start(*model, "trainer.max_epochs=4", "checkpoint_seconds=0", f"ckpt_path={path}", folder="parts")
    assert 1000 < parts["fit_seconds"] < 1000 + 600  # both parts count
    assert (a / "scores.csv").read_bytes() == (b / "scores.csv").read_bytes()
    assert equal(weights(a), weights(b)) and equal(weights(a, "last"), weights(b, "last"))
    assert whole["tested_epoch"] == parts["tested_epoch"] and parts["epochs"] == 4
    # The earlier log stays as it was, the later one holds the later epochs.
    assert (b / "log" / "metrics.csv").read_bytes() == first_log
    with open(b / "log_2" / "metrics.csv") as file:
        assert {row["epoch"] for row in csv.DictReader(file) if row["loss"]} == {"2", "3"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_in_an_epoch_ends_the_run_after_it_and_it_goes_on(start, monkeypatch, capsys, number):
    """In the first batch of the second of three epochs. Lightning has handlers of its own, which would end there."""
    whole, a = start("trainer.max_epochs=3", folder="whole")
    loss, steps, before = RD.training_loss, [], signal.getsignal(number)

    def interrupt(detector, batch):
        if detector.training:  # batch norm is asked before, see `takes_single`
            steps.append(detector.current_epoch)
        if len(steps) == 3:
            signal.raise_signal(number)
        return loss(detector, batch)

    monkeypatch.setattr(RD, "training_loss", interrupt)
    with pytest.raises(SystemExit) as ended:
        start("trainer.max_epochs=3", folder="parts")
    assert ended.value.code == 128 + number and steps == [0, 0, 1, 1] and signal.getsignal(number) == before
    assert capsys.readouterr().err.count("ends after this epoch") == 1
    last = a.parent / "parts/checkpoints/last.ckpt"
    assert Checkpoint.load(last).epochs == 2
    _, b = start(f"ckpt_path={last}", "trainer.max_epochs=3", folder="parts")
    assert steps == [0, 0, 1, 1, 2, 2] and equal(weights(a), weights(b))


def test_a_signal_in_a_long_epoch_leaves_an_earlier_one_to_go_on_from(start, monkeypatch):
    """In the first batch of the second epoch, each longer than a signal waits, long before checkpoint_seconds."""
    whole, a = start("trainer.max_epochs=3", folder="whole")
    loss, steps = RD.training_loss, []

    def interrupt(detector, batch):
        if detector.training:
            steps.append(detector.current_epoch)
            if len(steps) == 3:
                signal.raise_signal(signal.SIGTERM)
            time.sleep(0.02)
        return loss(detector, batch)

    monkeypatch.setattr(signals, "GRACE", 0.01)
    monkeypatch.setattr(RD, "training_loss", interrupt)
    with pytest.raises(SystemExit) as ended:
        start("trainer.max_epochs=3", folder="parts")
    assert ended.value.code == 128 + signal.SIGTERM and steps == [0, 0, 1]
    last = a.parent / "parts/checkpoints/last.ckpt"
    assert Checkpoint.load(last).epochs == 1
    _, b = start(f"ckpt_path={last}", "trainer.max_epochs=3", folder="parts")
    assert steps == [0, 0, 1, 1, 1, 2, 2] and equal(weights(a), weights(b))


def test_a_run_s_folder_goes_on_from_its_last_checkpoint(command, tiny_mvtec, tmp_path, capsys):
    """And not from the weights that were tested, from which nothing goes on."""
    words = [
        "model=rd",
        "dataset=mvtec",
        f"dataset.root={tiny_mvtec}",
        "category=tile",
        *SMALL,
        "trainer.accelerator=cpu",
    ]
    assert command(*words, "hydra.run.dir=a") == 0 and command("ckpt_path=a", "trainer.max_epochs=2") == 0
    assert json.loads((tmp_path / "a_2/results.json").read_text())["epochs"] == 2
    (tmp_path / "a/checkpoints/last.ckpt").unlink()
    assert command("ckpt_path=a", "trainer.max_epochs=3") == 2
    assert "there is no a/checkpoints/last.ckpt to go on from" in capsys.readouterr().err


def test_a_signal_after_the_last_epoch_ends_the_run_before_its_test(start, monkeypatch):
    """Where thresholds are taken, when the weights are saved: the run that goes on trains no more."""
    monkeypatch.setattr(RD, "after_fit", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        start(folder="ended")
    assert ended.value.code == 143


def test_a_resumed_run_keeps_the_best_epoch_so_far(start, monkeypatch):
    """The second of four epochs is the best, the third better than the first: also where the folder was moved, where
    results go elsewhere, and where nothing but the test was left to do.
    """
    losses = [5.0, 1.0, 3.0, 4.0]
    monkeypatch.setattr(Steps, "validation_step", lambda self, *_: self.log("val_loss", losses[self.current_epoch]))
    four = [*STPM, "trainer.max_epochs=4"]
    whole, a = start(*four, folder="whole")
    _, parts = start(*STPM, "trainer.max_epochs=2", folder="parts")
    shutil.copytree(parts, parts.parent / "moved")

    def check(folder, last):
        results, found = start(*four, f"ckpt_path={last / 'checkpoints/last.ckpt'}", folder=folder)
        assert results["tested_epoch"] == 2 and results["epochs"] == 4
        assert equal(weights(a), weights(found)) and equal(weights(a), weights(found, "best"))
        assert (a / "scores.csv").read_bytes() == (found / "scores.csv").read_bytes()
        assert Checkpoint.load(found / "checkpoints" / "tested.ckpt").content["kdad"]["tested_epoch"] == 2

    assert whole["tested_epoch"] == 2
    check("elsewhere", parts)
    check("parts", parts)
    shutil.rmtree(parts)
    check("moved", parts.parent / "moved")
    shutil.copytree(a, parts.parent / "copy", ignore=shutil.ignore_patterns("tested.ckpt"))
    check("copy", parts.parent / "copy")
    shutil.copytree(a / "checkpoints", parts.parent / "lone" / "checkpoints")
    with pytest.raises(UserError, match=r"\w+.ckpt was not written by kdad"):  # as far as can be told
        check("lone", parts.parent / "lone")

    (parts.parent / "moved" / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match="best.ckpt: no such file"):
        check("moved", parts.parent / "moved")


def test_a_run_killed_before_its_test_takes_its_statistics_when_resumed(start):
    whole, folder = start("model=statistics", "trainer.max_epochs=2")
    scores, tested = (folder / "scores.csv").read_bytes(), weights(folder)
    for name in ("results.json", "scores.csv", "checkpoints/tested.ckpt"):
        (folder / name).unlink()
    results, _ = start("model=statistics", "trainer.max_epochs=2", f"ckpt_path={folder / 'checkpoints/last.ckpt'}")
    assert (folder / "scores.csv").read_bytes() == scores and equal(weights(folder), tested)
    assert results["epochs"] == results["tested_epoch"] == 2 and results["loss"] == whole["loss"]


def test_what_cannot_be_resumed(start):
    _, folder = start("model=rd", "trainer.max_epochs=2")
    for name, epochs, message in (("tested", 4, "holds weights alone"), ("last", 1, "has 2 epochs behind it")):
        with pytest.raises(UserError, match=message):
            start("model=rd", f"trainer.max_epochs={epochs}", f"ckpt_path={folder}/checkpoints/{name}.ckpt", folder="b")


def test_checkpoints_are_written_beside_their_place(start, tmp_path, monkeypatch):
    """A move from a temporary folder could be a copy, and a kill could cut it short."""
    monkeypatch.setattr(shutil, "move", lambda *_: pytest.fail("moved"))
    _, folder = start(*STPM)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt", "tested.ckpt"]

    def cut_short(checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    before = (folder / "checkpoints" / "last.ckpt").read_bytes()
    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpoints().save_checkpoint({}, folder / "checkpoints" / "last.ckpt")
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before
    assert len(list((folder / "checkpoints").iterdir())) == 3


def test_a_checkpoint_holds_plain_values_and_its_own_configuration(start):
    _, folder = start("model=rd")
    for name in ("last", "tested"):
        checkpoint = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["kdad"]["config"]["dataset"]["image_size"] == "${image_size}"
    assert "optimizer_states" not in checkpoint and checkpoint["kdad"]["overrides"] == []


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
    """retest() with the configuration that `start` would run."""
    import kdad.run
    import tests.end_to_end.conftest as conftest

    kept, conftest.run = conftest.run, retest
    try:
        return start(f"ckpt_path={folder / 'checkpoints/tested.ckpt'}", *overrides, folder="evaluated")
    finally:
        conftest.run = kept
        assert kept is kdad.run.run


def test_evaluate_repeats_the_test_of_a_run(start):
    run, a = start(*STPM, "trainer.max_epochs=2")
    results, b = again(start, a, *STPM, "trainer.max_epochs=2")
    assert (a / "scores.csv").read_bytes() == (b / "scores.csv").read_bytes()
    same = {"image_auroc", "pixel_auroc", "pro", "tested_epoch", "weights_fingerprint", "n_test", "category"}
    assert {k: run[k] for k in same} == {k: results[k] for k in same} and results["status"] == "ok"
    assert sorted(p.name for p in b.iterdir()) == [
        ".kdad",
        ".lock",
        "config.yaml",
        "curves.npz",
        "defects.csv",
        "maps",
        "results.json",
        "scores.csv",
    ]


def test_evaluate_with_other_levels_map_size_and_root(start, tiny_mvtec, tmp_path):
    _, folder = start(*STPM)
    scores = {(folder / "scores.csv").read_text()}
    copy = tmp_path / "elsewhere"
    shutil.copytree(tiny_mvtec, copy)
    for override in ("model.score_levels=[2,3]", "model.map_size=16", f"dataset.root={copy}"):
        _, found = again(start, folder, *STPM, override)
        scores.add((found / "scores.csv").read_text())
    assert len(scores) == 4


def test_evaluate_refuses_other_weights_and_what_needs_training(start):
    _, folder = start("model=rd")
    with pytest.raises(UserError, match="The checkpoint was trained with a teacher of backbone test_resnet.r160_in1k"):
        again(start, folder, "model=rd", "backbone.name=resnet50.tv_in1k")
    for override in (
        "model.bottleneck=oce", "model.loss=flattened", "seed=5", "image_size=96", "optimizer.lr=0.1", "levels=[1,2]",
        "normalisation=none", "val_fraction=0.5", "trainer.max_epochs=9", "dataset.train_fraction=0.5",
        "dataset.split_seed=1", "dataset.augment=rotate_scale",
    ):  # fmt: skip
        message = override.replace("[1,2]", r"\[1, 2\]") + " needs training: the checkpoint .* was trained with .*"
        with pytest.raises(UserError, match=f"{message}may change: model.score_levels, model.sigma, model.image_score"):
            again(start, folder, "model=rd", override)
    again(start, folder, "model=rd", "batch_size=2", "pictures=0", "trainer.precision=bf16-mixed", "+variants.a={}")


def test_evaluate_on_other_data_where_there_are_no_training_images(command, tiny_mvtec, tmp_path):
    """Neither those that it was trained on nor any at the new place; what comes out is no run's result."""
    shutil.copytree(tiny_mvtec, tmp_path / "there")
    where = ("dataset.root=there", "hydra.run.dir=run")
    assert command("model=rd", "dataset=mvtec", "category=tile", *SMALL, *where) == 0
    shutil.move(tmp_path / "there/tile/test/good", tmp_path / "line 2/ok")
    shutil.move(tmp_path / "there/tile/test/square", tmp_path / "line 2/square")
    shutil.rmtree(tmp_path / "there")
    checkpoint = "ckpt_path=run/checkpoints/tested.ckpt"
    assert command(checkpoint, "hydra.run.dir=tested", main=evaluate) == 2
    for refused in ("form=released", "severity=2", "metrics.mode=fast"):  # another training, of no corruption, no mode
        assert command(checkpoint, refused, main=evaluate) == 2
    assert not (tmp_path / "run/evaluations").exists()
    other = ("dataset=folder", "dataset.root=line 2", "dataset.normal=ok", "dataset.test_fraction=1")
    assert command(checkpoint, *other, "dataset.anomalous=square", "hydra.run.dir=tested", main=evaluate) == 0
    before, results = (json.loads((tmp_path / f"{name}/results.json").read_text()) for name in ("run", "tested"))
    assert results["config_hash"] is None and results["trained_on"] == "mvtec tile" and results["n_test"] == 6
    assert results["image_auroc"] == before["image_auroc"] and results["dataset"] == "folder"
    assert read_runs([tmp_path / "tested"]).iloc[0]["dataset"] == "folder (trained on mvtec tile)"


def test_evaluate_does_not_test_what_was_trained_on(start, tiny_mvtec):
    folder_set = ("dataset=folder", f"dataset.root={tiny_mvtec}/tile/train", "dataset.normal=good", "category=null")
    own = (*folder_set, f"dataset.anomalous={tiny_mvtec}/tile/test/square")
    _, folder = start("model=rd", *own)
    with pytest.raises(UserError, match="test images have the names of images trained on"):
        again(start, folder, "model=rd", *own, "dataset.test_fraction=1")


# Collapse ----------------------------------------------------------------------------------------------------------


def test_constant_scores_are_an_error_not_one_half(start, monkeypatch):
    from kdad.models.base import Detection
    from kdad.models.rd import RD

    def constant(self, batch):
        n = len(batch["image"])
        return Detection(torch.zeros(n, 1, 64, 64), torch.ones(n))

    monkeypatch.setattr(RD, "detect", constant)
    with pytest.raises(UserError, match="Collapsed: the score of every test image is 1.0"):
        start("model=rd")

    monkeypatch.setattr(
        RD, "detect", lambda self, b: Detection(torch.zeros(len(b["image"]), 1, 64, 64), b["image"].mean(dim=(1, 2, 3)))
    )
    with pytest.raises(UserError, match="Collapsed: every anomaly map is 0.0"):
        start("model=rd")

    monkeypatch.setattr(
        RD,
        "detect",
        lambda self, b: Detection(torch.full((len(b["image"]), 1, 64, 64), torch.nan), b["image"].mean(dim=(1, 2, 3))),
    )
    with pytest.raises(UserError, match="The score of .*png is NaN"):
        start("model=rd")
