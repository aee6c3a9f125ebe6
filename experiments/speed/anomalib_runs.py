"""Measured runs of anomalib, through its own Engine, data module and metrics, for `peers.py`.

Its defaults, but for what would make it do more work than kdad does: no validation on the test images after each epoch,
no score normalisation, pictures or progress bar, one checkpoint, at the end, and three metrics (image and pixel AUROC,
PRO; kdad computes seven and their curves). Weights come from no network: `pre_trained` cannot be said of its STPM.
"""

import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import timm
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import MVTecAD
from anomalib.data.utils import ValSplitMode
from anomalib.engine import Engine
from anomalib.metrics import AUPRO, AUROC, Evaluator
from anomalib.models import ReverseDistillation, Stfpm
from anomalib.models.image.stfpm.loss import STFPMLoss
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, seed_everything
from runs import Clock, Watch, compose, memory, overrides, use
from torchvision.transforms.v2 import Compose, Normalize, Resize

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Timed(Clock, Callback):
    pass


class MeanLoss(STFPMLoss):
    def forward(self, teacher_features, student_features):
        return super().forward(teacher_features, student_features) / len(next(iter(teacher_features.values())))


class PaperStep(Stfpm):
    """STPM with the paper's and its code's step: the batch's mean instead of its sum, a tenth of the weight decay."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.loss = MeanLoss()

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.student_model.parameters(), lr=0.4, momentum=0.9, weight_decay=1e-4)


MODELS = {"stpm": Stfpm, "rd": ReverseDistillation, "stpm_paper_step": PaperStep}


class Collected(Callback):
    """The scores and maps of a test, by image."""

    def __init__(self):
        self.found = {}

    def on_test_batch_end(self, trainer, module, outputs, *args):
        for path, score, anomaly_map in zip(outputs.image_path, outputs.pred_score, outputs.anomaly_map, strict=True):
            self.found[Path(path).resolve()] = score, anomaly_map


def detector(name, setting, statistics=IMAGENET, **network):
    """With random weights, which no file or hub is asked for."""
    size, create = (setting.image_size, setting.image_size), timm.create_model
    metrics = [
        AUROC(["pred_score", "gt_label"], prefix="image_"),
        AUROC(["anomaly_map", "gt_mask"], prefix="pixel_"),
        AUPRO(["anomaly_map", "gt_mask"], prefix="pixel_"),
    ]
    with patch("timm.create_model", lambda *args, **keywords: create(*args, **keywords | {"pretrained": False})):
        return MODELS[name](
            **network,
            pre_processor=PreProcessor(Compose([Resize(size, antialias=True), Normalize(*statistics)])),
            post_processor=False,
            evaluator=Evaluator(test_metrics=metrics),
            visualizer=False,
        )


def datamodule(setting):
    _, category = setting.data.split("/")
    return MVTecAD(
        setting.root, category, train_batch_size=setting.batch_size, eval_batch_size=setting.batch_size,
        num_workers=setting.workers, val_split_mode=ValSplitMode.NONE,
    )  # fmt: skip


def engine(setting, folder, callback):
    once = ModelCheckpoint(folder, every_n_epochs=setting.epochs)
    return Engine(
        callbacks=[callback, once], default_root_dir=folder, max_epochs=setting.epochs, precision=setting.precision,
        accelerator="cpu", devices=1, limit_val_batches=0, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def anomalib(setting):
    """One whole run, timed in its parts as `runs.kdad` is."""
    use(setting.threads)
    before = memory("VmRSS")
    with Watch() as watch, tempfile.TemporaryDirectory() as folder:
        for metric in (AUROC, AUPRO):
            for method in ("update", "compute"):
                watch.on(metric, method, "metrics")
        start = time.perf_counter()
        clock = Timed(start)
        seed_everything(0, verbose=False)
        data, model = datamodule(setting), detector(setting.model, setting, backbone=setting.backbone)
        trainer = engine(setting, folder, clock)
        trainer.fit(model=model, datamodule=data)
        tested = time.perf_counter()
        trainer.test(model=model, datamodule=data, verbose=False)
        end = time.perf_counter()
    return {
        "n_train": len(data.train_data),
        "n_test": len(data.test_data),
        "epochs": clock.epochs(),
        "whole": end - start,
        "test": end - tested,
        "metrics": sum(watch.seconds["metrics"]),
        "peak_mib": memory("VmHWM"),
        "start_mib": before,
        "cache_mib": 0.0,
    }


def scored(setting, name, seed):
    """kdad's metrics of the scores and maps of a STPM with kdad's teacher, by kdad's masks; and anomalib's own."""
    from kdad.engine.build import build
    from kdad.metrics import DetectionMetrics
    from kdad.teacher import at_strides

    use(setting.threads)
    ours, reference = build(compose(overrides(setting)))
    teacher = reference.teacher
    seed_everything(seed, verbose=False)
    network = {"backbone": teacher.name.split(".")[0], "layers": at_strides(4, 8, 16)(teacher.name)}
    model = detector(name, setting, (teacher.mean, teacher.std), **network)
    theirs = model.model.teacher_model
    theirs.feature_extractor.load_state_dict(teacher.body.state_dict(), strict=False)  # it keeps deeper blocks, unused
    images = torch.rand(2, 3, setting.image_size, setting.image_size)
    for found, expected in zip(theirs(images).values(), teacher(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    collected = Collected()
    with tempfile.TemporaryDirectory() as folder:
        trainer, data = engine(setting, folder, collected), datamodule(setting)
        start = time.perf_counter()
        trainer.fit(model=model, datamodule=data)
        seconds = time.perf_counter() - start
        own = trainer.test(model=model, datamodule=data, verbose=False)[0]
    assert len(data.train_data) == len(ours.train_samples) and len(collected.found) == len(ours.test_samples)
    state = DetectionMetrics()
    for batch in ours.test_dataloader():
        rows = [collected.found[ours.test_samples[index].path.resolve()] for index in batch["index"].tolist()]
        scores, maps = (torch.stack(part).cpu() for part in zip(*rows, strict=True))
        state.update(batch["index"], scores.flatten(), batch["label"], maps.view_as(batch["mask"]), batch["mask"])
    values = state.compute().metrics
    return {
        **{key: values[key] for key in ("image_auroc", "pixel_auroc", "pro")},
        **{f"own_{key}": own[metric] for key, metric in OWN.items()},
        "fit_seconds": seconds,
    }


OWN = {"image_auroc": "image_AUROC", "pixel_auroc": "pixel_AUROC", "pro": "pixel_AUPRO"}
