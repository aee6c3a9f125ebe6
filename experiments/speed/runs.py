"""Measured runs of kdad, and a process of its own for each, for `peers.py` and `growth.py`."""

import importlib
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch


class Setting(NamedTuple):
    """What is the same on both sides."""

    model: str
    data: str  # <data set>/<category>
    root: str  # the folder with the category's
    epochs: int
    threads: int
    image_size: int = 128
    batch_size: int = 16
    backbone: str = "resnet18"
    pretrained: bool = False
    precision: str = "32-true"
    workers: int = 0  # of anomalib's loaders; kdad's have none


def alone(module, function, *arguments):
    """`module.function(*arguments)` in a fresh process, which reaches no network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_call, module, function, arguments).result()


def _call(module, function, arguments):
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    return getattr(importlib.import_module(module), function)(*arguments)


def memory(key):
    """MiB of this process: VmRSS now, VmHWM at its highest. Of getrusage's peak the parent's would be part."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def use(threads):
    import torch

    torch.set_num_threads(threads)


class Clock:
    """A callback's part that notes when each epoch ends; the first one has all that precedes it since `start`."""

    def __init__(self, start):
        self.ends = [start]

    def on_train_epoch_end(self, *args):
        self.ends.append(time.perf_counter())

    def epochs(self):
        return [end - begin for begin, end in zip(self.ends, self.ends[1:], strict=False)]


class Watch(ExitStack):
    """Notes the seconds of each call of the functions it is told of, as long as it is open."""

    def __init__(self):
        super().__init__()
        self.seconds = defaultdict(list)

    def on(self, owner, attribute, name):
        function = getattr(owner, attribute)

        @wraps(function)
        def timed(*args, **keywords):
            start = time.perf_counter()
            try:
                return function(*args, **keywords)
            finally:
                self.seconds[name].append(time.perf_counter() - start)

        self.enter_context(patch.object(owner, attribute, timed))


def overrides(setting, *more):
    """Of `kdad.run`: no validation, pictures or log, one checkpoint at the end; `more` overrules these."""
    name, category = setting.data.split("/")
    given = [
        f"model={setting.model}", f"dataset={name}", f"category={category}", f"dataset.root={setting.root}",
        f"backbone={setting.backbone}", f"backbone.pretrained={setting.pretrained}", f"image_size={setting.image_size}",
        f"batch_size={setting.batch_size}", f"trainer.max_epochs={setting.epochs}",
        f"trainer.precision={setting.precision}", "trainer.accelerator=cpu", "+trainer.enable_progress_bar=false",
        "val_fraction=0", "monitor=null", "checkpoint_seconds=1000000", "pictures=0", "logger=none", *more,
    ]  # fmt: skip
    return list({one.split("=")[0]: one for one in given}.values())


def compose(given):
    from kdad.settings.compose import compose

    return compose(*given)


def scored(setting, *more):
    """The headline metrics of one `kdad.run`."""
    from kdad.engine.run_folder import RunFolder
    from kdad.run import run

    with tempfile.TemporaryDirectory() as folder:
        use(setting.threads)
        results = run(compose(overrides(setting, *more)), RunFolder(folder))
    return {key: results[key] for key in ("image_auroc", "pixel_auroc", "pro", "tested_epoch", "fit_seconds")}


def kdad(setting, *more):
    """One whole `kdad.run`, timed in its parts."""
    import kdad.data.decoding  # before Lightning makes a tensor: see kdad/__init__.py
    import kdad.engine.features
    import kdad.engine.job
    import kdad.engine.unified
    import kdad.run
    import pytorch_lightning as pl  # isort: skip
    from kdad.engine.run_folder import RunFolder
    from kdad.metrics import DetectionMetrics
    from kdad.teacher import Teacher

    class Timed(Clock, pl.Callback):
        pass

    use(setting.threads)
    cfg = compose(overrides(setting, *more))
    before, taught = memory("VmRSS"), []
    with Watch() as watch, tempfile.TemporaryDirectory() as folder:
        watch.on(kdad.data.decoding, "decode_images", "decode")
        watch.on(kdad.data.decoding, "decode_masks", "masks")
        watch.on(kdad.engine.features, "_features", "teacher")
        watch.on(kdad.engine.unified, "test", "test")
        for method in ("update", "compute"):
            watch.on(DetectionMetrics, method, "metrics")
        forward, trainer = Teacher.forward, kdad.engine.job.make_trainer
        watch.enter_context(
            patch.object(Teacher, "forward", lambda self, images: taught.append(len(images)) or forward(self, images))
        )
        start = time.perf_counter()
        clock = Timed(start)
        watch.enter_context(patch.object(kdad.engine.job, "make_trainer", lambda *args: trainer(*args, clock)))
        results = kdad.run.run(cfg, RunFolder(folder))
        whole = time.perf_counter() - start
    seconds = watch.seconds
    # The test set is decoded before the fit and taught after it: second in each list, after the normal images.
    ahead = seconds["decode"][1] + sum(seconds["masks"]) + (seconds["teacher"][1] if seconds["teacher"] else 0)
    return {
        "n_train": results["n_train"],
        "n_test": results["n_test"],
        "epochs": clock.epochs(),
        "whole": whole,
        "prepare": sum(sum(seconds[part]) for part in ("decode", "masks", "teacher")),
        "test": ahead + sum(seconds["test"]),
        "test_warm": sum(seconds["test"]),
        "metrics": sum(seconds["metrics"]),
        "peak_mib": memory("VmHWM"),
        "start_mib": before,
        "cache_mib": results["cache_bytes"] / 2**20,
        "teacher_images": sum(taught),
    }


def sweep(*settings):
    """Each of them in turn in one process, as the jobs of a sweep are, with the teacher's own normalisation."""
    return [kdad(setting, "normalisation=auto") for setting in settings]  # MKD's recipe has none, so other features


def bare(setting, *more):
    """Epochs of the same steps in a plain loop over the same cached images and teacher features."""
    from kdad.engine.build import build
    from kdad.engine.features import attach_features
    import torch  # isort: skip  # after kdad: see kdad/__init__.py

    use(setting.threads)
    data, detector = build(compose(overrides(setting, *more)))
    attach_features(detector, data.pools, data.store, torch.device("cpu"))
    detector.train()
    optimizer, seconds = detector.configure_optimizers(), []
    for _ in range(setting.epochs):
        start = time.perf_counter()
        for batch in data.train_dataloader():
            loss = detector.training_loss(batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return {"n_train": len(data.train_samples), "epochs": seconds}


def spread(values, digits=1):
    """Median [lowest, highest]; of one value, that."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"
