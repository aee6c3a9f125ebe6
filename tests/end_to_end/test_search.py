"""Searches over hyper-parameters: what they may look at, and that their documented commands are taken."""

import sys
from pathlib import Path

import hydra
import pytest
import yaml

from kdad.dashboard import make_workspace
from kdad.engine.search import check_objective, compute_objective
from kdad.errors import UserError
from kdad.settings.checks import check_configuration
from kdad.settings.compose import CONF
from tests.processes import run_module

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("objective", ["image_auroc", "pixel_auroc", "pro"])
def test_test_images_have_no_say_unless_asked(objective):
    with pytest.raises(UserError, match="is measured on test images.*objective_on_test_data=true"):
        check_objective(objective, False)
    check_objective(objective, True, direction="maximize")
    with pytest.raises(UserError, match="direction=minimize: set it to maximize"):
        check_objective(objective, True, direction="minimize")


def test_losses_are_minimised():
    check_objective(None, False)
    check_objective("loss", False, n_val=0, direction="minimize")
    check_objective("val_loss", False, n_val=3)
    for bad, message in (
        ({"objective": "val_los"}, "give one of loss, val_loss"),
        ({"objective": "val_loss", "n_val": 0}, "needs validation images"),
        ({"objective": "loss", "direction": "maximize"}, "set it to minimize"),
    ):
        with pytest.raises(UserError, match=message):
            check_objective(on_test_data=False, **bad)


def test_value_is_the_mean_over_categories():
    rows = [{"category": "a", "loss": 1.0}, {"category": "b", "loss": 2.0}]
    assert compute_objective("loss", rows) == 1.5 and compute_objective(None, rows) is None
    with pytest.raises(UserError, match="the results of a, b have none"):
        compute_objective("pro", rows)


def test_refused_before_training_and_written_down(start):
    with pytest.raises(UserError, match="is measured on test images"):
        start("model=rd", "objective=pro")
    with pytest.raises(UserError, match="needs validation images"):
        start("model=rd", "objective=val_loss")
    results, _ = start("model=stpm", "objective=val_loss", "val_fraction=0.25", "trainer.max_epochs=3", "pictures=0")
    assert (results["objective"], results["objective_on_test_data"]) == ("val_loss", False)
    assert 0 < results["val_loss"] < 10 and results["loss"] > 0


def test_val_loss_is_that_of_the_tested_weights(start):
    results, folder = start("model=stpm", "val_fraction=0.25", "trainer.max_epochs=4", "optimizer.lr=3", "pictures=0")
    table = [row.split(",") for row in (folder / "log/metrics.csv").read_text().splitlines()]
    column = table[0].index("val_loss")
    losses = [float(row[column]) for row in table[1:] if row[column]]
    assert len(losses) == 4
    assert results["val_loss"] == pytest.approx(min(losses), rel=1e-6)
    assert results["val_loss"] == pytest.approx(losses[results["tested_epoch"] - 1], rel=1e-6)


@pytest.mark.slow
def test_optuna(tiny_mvtec, tmp_path):
    """Three trials on the command line as documented: the best is the one with the lowest validation loss."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs kdad[optuna]")
    shared = [
        "-m", "+sweep=optuna", "model=stpm", "dataset=mvtec", "category=tile",
        f"dataset.root={tiny_mvtec}", "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false", "image_size=64", "batch_size=4",
        "trainer.max_epochs=2", "trainer.accelerator=cpu", "pictures=0", "logger=none", "hydra.sweeper.n_trials=3",
    ]  # fmt: skip

    def search(folder, *more):
        return run_module("kdad.run", [*shared, f"hydra.sweep.dir={folder}", *more], tmp_path)

    done = search("a", "optimizer.lr=tag(log,interval(1e-3,1))")
    assert done.returncode == 0, done.stderr
    results = [yaml.safe_load(path.read_text()) for path in tmp_path.glob("a/*/results.json")]
    best = yaml.safe_load((tmp_path / "a/optimization_results.yaml").read_text())
    assert len(results) == 3 and best["best_value"] == min(r["val_loss"] for r in results)
    assert 1e-3 <= best["best_params"]["optimizer.lr"] <= 1
    refused = search("b", "objective=image_auroc")
    assert refused.returncode == 2 and "is measured on test images" in refused.stderr
    assert "Traceback" not in refused.stderr and not list(tmp_path.glob("b/*/checkpoints"))


def test_optunas_file_composes():
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs kdad[optuna]")
        cfg = hydra.compose("run", ["sweep=optuna", "model=rd"], return_hydra_config=True)
    assert (cfg.objective, cfg.val_fraction, cfg.hydra.sweeper.direction) == ("val_loss", 0.2, "minimize")
    assert "optuna" in cfg.hydra.sweeper._target_


def test_wandbs_sweep_makes_commands_that_are_taken():
    """By W&B's own code for its agent, with a value of every parameter."""
    sweeps = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = yaml.safe_load((ROOT / "experiments/sweeps/wandb.yaml").read_text())
    values = {
        key: given.get("value", given.get("max", given.get("values", [None])[-1]))
        for key, given in sweep["parameters"].items()
    }
    macros = sweeps.create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    assert sweep["command"] == ["${env}", "python", "-m", "${program}", "${args_no_hyphens}"]
    assert sweep["program"] == "kdad.run" and sweep["metric"] == {"name": "val_loss", "goal": "minimize"}
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("run", macros["args_no_hyphens"])
    check_configuration(cfg, "run")
    assert (cfg.model.name, cfg.category, cfg.logger.project) == ("stpm", "grid", "kdad")
    assert (cfg.optimizer.lr, cfg.batch_size, cfg.val_fraction) == (1.0, 32, 0.2)


def test_the_dashboard_shows_what_runs_log(start):
    """Its layout as it is sent to W&B; keys are those that the logger is told."""
    pytest.importorskip("wandb_workspaces", reason="needs kdad[dashboard]")
    model = make_workspace("somebody", "kdad")._to_model()
    text = model.model_dump_json(by_alias=True)
    assert type(model).model_validate_json(text).model_dump() == model.model_dump()
    for key in ("image_auroc", "pixel_auroc", "pro", "loss", "val_loss", "scores_normal", "scores_anomalous", "maps"):
        assert f'"{key}"' in text
    assert '"grouping":[{"section":"run","name":"group"}]' in text.replace(" ", "").replace('"value":null', "")
    for title in ("Scores", "Training", "Score histograms and maps", "Hyper-parameters"):
        assert f'"{title}"' in text


def test_without_its_package_the_dashboard_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UserError, match=r"pip install 'kdad\[dashboard\]'"):
        make_workspace("somebody", "kdad")
