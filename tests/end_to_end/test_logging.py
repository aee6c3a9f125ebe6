"""What loggers are told, and that one run of theirs is one job."""

import json

import pytest
import wandb
from pytorch_lightning.loggers import Logger

from kdad.engine.launch import launch
from kdad.engine.loggers import SUMMARY
from kdad.engine.record import SEVEN
from kdad.engine.sweep import name_sweep
from kdad.errors import UserError

CAPTURED = []


class Captured(Logger):
    """Takes what W&B's logger would: hyper-parameters, metrics, images, an experiment to finish."""

    class Experiment:
        def finish(self, exit_code):
            CAPTURED[-1]["exit_code"] = exit_code

    name, version = "captured", "0"

    def __init__(self, save_dir, project="", group=None, tags=()):
        CAPTURED.append({"save_dir": save_dir, "group": group, "tags": tags, "metrics": [], "images": [], "tables": {}})
        self.experiment = self.Experiment()

    def log_hyperparams(self, params):
        CAPTURED[-1]["config"] = params

    def log_metrics(self, metrics, step=None):
        CAPTURED[-1]["metrics"].append(metrics)

    def log_image(self, key, images, caption):
        CAPTURED[-1]["images"] += images

    def log_table(self, key, columns, data):
        CAPTURED[-1]["tables"][key] = [dict(zip(columns, row, strict=True)) for row in data]

    def finalize(self, status):
        CAPTURED[-1]["status"] = status


LOGGER = [
    "logger=wandb", "logger._target_=tests.end_to_end.test_logging.Captured", "~logger.name", "~logger.offline",
    "logger.group=study",
]  # fmt: skip


def test_config_losses_metrics_maps_tags_and_group(start):
    CAPTURED.clear()
    results, folder = start(*LOGGER, "model=rd", "trainer.max_epochs=2", "pictures=3")
    (found,) = CAPTURED
    assert found["save_dir"] == str(folder) and found["group"] == "study"
    assert found["tags"] == ["rd", "mvtec", "tile", "test_resnet.r160_in1k"]
    assert found["config"]["dataset"]["image_size"] == 64 and found["config"]["optimizer"]["lr"] == 0.005
    epochs = [m for m in found["metrics"] if "loss_level_1" in m]
    assert len(epochs) == 2 and epochs[1]["loss"] < epochs[0]["loss"]
    assert {k: found["metrics"][-1][k] for k in ("image_auroc", "pixel_auroc", "pro")} == {
        k: results[k] for k in ("image_auroc", "pixel_auroc", "pro")
    }
    assert found["images"] == [str(p) for p in sorted((folder / "maps").iterdir())] and len(found["images"]) == 3
    (row,) = found["tables"]["summary"]
    mean = sum(results[name] for name in SEVEN) / 7
    assert row.pop("mad") == pytest.approx(mean, rel=1e-12)
    assert row == {key: results.get(key) for key in SUMMARY if key != "mad"} and row["val_loss"] is None
    assert (row["model"], row["backbone"], row["n_test"]) == ("rd", "test_resnet.r160_in1k", 6)
    assert row["loss"] == pytest.approx(epochs[1]["loss"], rel=1e-6)
    assert (found["status"], found["exit_code"]) == ("success", 0)


def test_runs_are_grouped_by_experiment_else_sweep_else_model_and_data_set(start, monkeypatch):
    CAPTURED.clear()
    start(*LOGGER[:-1], "model=rd", "pictures=0", folder="a")
    for number, name in enumerate(("rd/table5", "study")):
        monkeypatch.setattr("kdad.engine.job.name_sweep", lambda name=name: name)
        start(*LOGGER[:-1], "model=rd", "pictures=0", folder=str(number))
    assert [c["group"] for c in CAPTURED] == ["rd_mvtec", "rd/table5", "study"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["-m", "seed=0,1", "hydra.sweep.dir=study"], "study"),
        (["-m", "+experiment=rd/table5", "category=grid", "seed=0", "model.bottleneck=pre"], "rd/table5"),
        (["seed=1"], None),
    ],
)
def test_what_the_jobs_of_a_sweep_have_in_common(tmp_path, monkeypatch, arguments, name):
    found = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["kdad", *arguments])
    launch(lambda cfg: found.append(name_sweep()), "run")
    assert set(found) == {name}


def test_one_run_per_job_and_a_failure_is_told(start):
    CAPTURED.clear()
    start(*LOGGER, "model=rd", folder="a")
    with pytest.raises(UserError, match="diverged"):
        start(*LOGGER, "model=rd", "optimizer.lr=1e30", "trainer.max_epochs=4", folder="b")
    assert [c["status"] for c in CAPTURED] == ["success", "failed"] and CAPTURED[1]["exit_code"] == 1


def test_wandb_without_an_account_says_how_to_do_without(start, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # of .netrc, where a key may be
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    wandb.teardown()  # it reads the environment once
    with pytest.raises(UserError, match="logger=wandb: .*wandb login.*logger.offline=true"):
        start("logger=wandb", "model=rd")
    wandb.teardown()
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_wandb_offline_leaves_its_file(start, monkeypatch):
    """The real thing: two jobs, two runs, no network."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("a", "b"):
        _, folder = start("logger=wandb", "model=rd", "pictures=2", folder=name)
        (run,) = folder.glob("wandb/offline-run-*")
        content = next(run.glob("run-*.wandb")).read_bytes()  # plain text inside
        for part in (
            b"rd_mvtec",
            b"tile",
            b"test_resnet.r160_in1k",
            b"scores_normal",
            b"scores_anomalous",
            b"image_auroc",
        ):
            assert part in content
        assert content.count(b'"histogram"') >= 2
        (table,) = run.glob("files/media/table/summary_*.table.json")
        assert json.loads(table.read_text())["columns"] == list(SUMMARY)
        assert len(list(run.glob("files/media/images/maps_*.png"))) == 2
        assert json.loads((folder / "results.json").read_text())["status"] == "ok"


def test_tensorboard_holds_losses_metrics_and_maps(start):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    results, folder = start("logger=tensorboard", "model=rd", "trainer.max_epochs=2", "pictures=2")
    events = EventAccumulator(str(folder / "log")).Reload()
    assert len(events.Scalars("loss")) == 2
    assert events.Scalars("image_auroc")[0].value == pytest.approx(results["image_auroc"], abs=1e-6)
    assert len(events.Tags()["images"]) == 2
    for name in ("scores_normal", "scores_anomalous"):
        assert events.Histograms(name)[0].histogram_value.num == 3


def test_no_logger(start):
    _, folder = start("logger=none", "model=rd")
    assert not (folder / "log").exists() and (folder / "results.json").exists()
