"""What loggers are told, and that one run of theirs is one job."""

import json

import pytest
from pytorch_lightning.loggers import Logger

from kdad.errors import UserError

CAPTURED = []


class Captured(Logger):
    """Takes what W&B's logger would: hyper-parameters, metrics, images, an experiment to finish."""

    class Experiment:
        def finish(self, exit_code):
            CAPTURED[-1]["exit_code"] = exit_code

    name, version = "captured", "0"

    def __init__(self, save_dir, project="", group=None, tags=()):
        CAPTURED.append({"save_dir": save_dir, "group": group, "tags": tags, "metrics": [], "images": []})
        self.experiment = self.Experiment()

    def log_hyperparams(self, params):
        CAPTURED[-1]["config"] = params

    def log_metrics(self, metrics, step=None):
        CAPTURED[-1]["metrics"].append(metrics)

    def log_image(self, key, images, caption):
        CAPTURED[-1]["images"] += images

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
    assert found["tags"] == ["rd", "mvtec", "tile", "resnet18.tv_in1k"]
    assert found["config"]["dataset"]["image_size"] == 64 and found["config"]["optimizer"]["lr"] == 0.005
    epochs = [m for m in found["metrics"] if "loss_level_1" in m]
    assert len(epochs) == 2 and epochs[1]["loss"] < epochs[0]["loss"]
    assert {k: found["metrics"][-1][k] for k in ("image_auroc", "pixel_auroc", "pro")} == {
        k: results[k] for k in ("image_auroc", "pixel_auroc", "pro")
    }
    assert found["images"] == [str(p) for p in sorted((folder / "maps").iterdir())] and len(found["images"]) == 3
    assert (found["status"], found["exit_code"]) == ("success", 0)


def test_one_run_per_job_and_a_failure_is_told(start):
    CAPTURED.clear()
    start(*LOGGER, "model=rd", folder="a")
    with pytest.raises(UserError, match="diverged"):
        start(*LOGGER, "model=rd", "optimizer.lr=1e30", "trainer.max_epochs=4", folder="b")
    assert [c["status"] for c in CAPTURED] == ["success", "failed"] and CAPTURED[1]["exit_code"] == 1


@pytest.mark.slow
def test_wandb_offline_leaves_its_file(start, monkeypatch):
    """The real thing: two jobs, two runs, no network."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("a", "b"):
        _, folder = start("logger=wandb", "logger.offline=true", "model=rd", "pictures=2", folder=name)
        (run,) = folder.glob("wandb/offline-run-*")
        assert next(run.glob("run-*.wandb")).stat().st_size > 1000
        assert json.loads((folder / "results.json").read_text())["status"] == "ok"


def test_tensorboard_holds_losses_metrics_and_maps(start):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    results, folder = start("logger=tensorboard", "model=rd", "trainer.max_epochs=2", "pictures=2")
    events = EventAccumulator(str(folder / "log")).Reload()
    assert len(events.Scalars("loss")) == 2
    assert events.Scalars("image_auroc")[0].value == pytest.approx(results["image_auroc"], abs=1e-6)
    assert len(events.Tags()["images"]) == 2


def test_no_logger(start):
    _, folder = start("logger=none", "model=rd")
    assert not (folder / "log").exists() and (folder / "results.json").exists()
