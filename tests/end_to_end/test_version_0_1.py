"""Runs and checkpoints that version 0.1 has left are read, tested again, gone on with, reported and found done."""

import csv
import json
import shutil
from pathlib import Path

import pytest

import kdad
from kdad.engine.checkpoint import Checkpoint
from kdad.engine.finished import find_done
from kdad.engine.run_folder import RunFolder
from kdad.evaluate import main as evaluate
from kdad.report.study import make_study_report
from kdad.results.read import read_runs
from kdad.settings.compose import compose, resolve
from kdad.settings.roles import config_hash

OLD = Path(__file__).parents[1] / "version_0_1"
MODELS = ("rd", "stpm", "mkd", "dskd")
PLACES = [f"dataset.root={OLD / 'pictures'}", f"backbone.weights={OLD / 'teacher.safetensors'}"]


@pytest.fixture
def old(tmp_path):
    """A copy of all of them, to write into."""
    shutil.copytree(OLD / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def scores(folder):
    """Image -> score, by the path from its category on."""
    with (folder / "scores.csv").open() as file:
        return {Path(row["path"]).parts[-3:]: float(row["score"]) for row in csv.DictReader(file)}


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_says_what_made_it(model):
    checkpoint = Checkpoint.load(OLD / "runs" / model / "checkpoints" / "tested.ckpt")
    assert checkpoint.config["model"]["name"] == model and checkpoint.config["dataset"]["image_size"] == 64
    assert f"model={model}" in checkpoint.overrides and checkpoint.tested_epoch == 2


@pytest.mark.parametrize("model", MODELS)
def test_a_test_is_repeated(command, old, model):
    """Its scores come back as far as another processor rounds alike."""
    assert command(f"ckpt_path={old / model / 'checkpoints/tested.ckpt'}", *PLACES, main=evaluate) == 0
    (folder,) = (f for f in (old / model / "evaluations").iterdir() if results(f)["versions"].startswith("kdad 0.2"))
    before, after = scores(old / model), scores(folder)
    assert before.keys() == after.keys()
    assert list(after.values()) == pytest.approx(list(before.values()), rel=1e-4)
    assert results(folder)["tested_epoch"] == 2 and results(folder)["status"] == "ok"


@pytest.mark.parametrize("model", ["rd", "stpm", "mkd"])
def test_training_goes_on(command, old, model):
    assert command(f"ckpt_path={old / model / 'checkpoints/last.ckpt'}", *PLACES, "trainer.max_epochs=3") == 0
    assert results(old / model)["epochs"] == 2  # complete, and so left as it is
    found = results(old / f"{model}_2")
    assert (found["status"], found["epochs"]) == ("ok", 3)
    assert "changed_when_resumed" not in found and found["config_hash"]  # data and weights have only moved


@pytest.mark.parametrize("model", MODELS)
def test_a_finished_run_is_found_done(model):
    run = RunFolder(OLD / "runs" / model)
    made_by = Checkpoint.load(run.checkpoint("tested")).config
    assert run.is_trained(config_hash(made_by)) and find_done(run, config_hash(made_by), []) is run
    assert not run.is_trained(config_hash({**made_by, "seed": 1}))
    moved = {**made_by, "dataset": {**made_by["dataset"], "root": "/elsewhere"}}
    assert run.is_trained(config_hash(moved))


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("rd", []),
        ("mkd", []),
        # Today's students start at one, and DSKD's embedding has two blocks.
        ("stpm", ["model.zero_init_last=true"]),
        ("dskd", ["model.zero_init_last=true", "model.dfe_blocks=1", "model.align_corners=false"]),
    ],
)
def test_todays_configuration_finds_a_run_of_the_same_method(model, asked):
    run = RunFolder(OLD / "runs" / model)
    overrides = Checkpoint.load(run.checkpoint("tested")).overrides
    today = resolve(compose(*overrides))
    assert run.is_trained(config_hash(resolve(compose(*overrides, *asked))))
    assert run.is_trained(config_hash(today)) == (not asked)


def test_a_checkpoint_keeps_the_defaults_that_it_was_trained_with(old):
    """DSKD's embedding had one block by default; what is asked for by name counts all the same."""
    checkpoint = Checkpoint.load(old / "dskd/checkpoints/tested.ckpt")
    assert not any("dfe_blocks" in override for override in checkpoint.overrides)
    for typed, blocks, sigma in ([], 1, 4.0), (["model.sigma=2"], 1, 2), (["model.dfe_blocks=2"], 2, 4.0):
        cfg = compose(*checkpoint.overrides, *typed)
        checkpoint.fill_in(cfg, typed)
        assert (cfg.model.dfe_blocks, cfg.model.sigma, cfg.model.zero_init_last) == (blocks, sigma, True)


def test_a_report_has_them_all():
    table = read_runs([OLD / "runs"])
    assert sorted(zip(table["model"], table["kind"], strict=True)) == [
        ("dskd", "run"), ("mkd", "run"), ("rd", "evaluation"), ("rd", "run"), ("rd", "variant"), ("stpm", "run"),
    ]  # fmt: skip
    assert set(table["status"]) == {"ok"} and not table.attrs["skipped"]
    report = make_study_report(table)
    for model in MODELS:
        expected = f"{100 * results(OLD / 'runs' / model)['pixel_auroc']:.2f}"
        assert any(line[0] == model and expected in line for line in report.tables[0].rows)


@pytest.mark.parametrize("model", MODELS)
def test_pictures_are_judged(model):
    """As they were tested then; thresholds came later."""
    detector = kdad.load(OLD / "runs" / model, weights=str(OLD / "teacher.safetensors"))
    before = scores(OLD / "runs" / model)
    assert detector.decision is None and before
    for path in sorted((OLD / "pictures").rglob("test/*/*.png")):
        assert detector(path).score == pytest.approx(before[path.parts[-3:]], rel=1e-4)
