"""Where the time goes: `python experiments/speed/core.py <what> [--threads 2]`; the functions below are the choices.

Every ratio is of two things timed in turn in the same process, so that whatever else the machine does meets both.
Teachers and students have random weights: these are timings, no accuracies.
"""

import argparse
import logging
import multiprocessing
import resource
import statistics
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from torchmetrics.functional.classification import binary_auroc

from kdad.data import Sample
from kdad.engine.build import build, build_detector, make_trainer
from kdad.engine.features import attach_features
from kdad.engine.fit import Training
from kdad.engine.run_folder import RunFolder
from kdad.engine.test import Evaluation
from kdad.metrics import DetectionMetrics
from kdad.settings.compose import CONF
from kdad.speed import keep_memory

BATCH = {"stpm": 32, "rd": 16, "dskd": 16}


def configuration(model, *more):
    given = [f"model={model}", "backbone=resnet18", "backbone.pretrained=false", "image_size=128", *more]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("run", given)


def alternate(repeats, **functions):
    """Seconds of each function, called in turn; the first round is not counted."""
    seconds = {name: [] for name in functions}
    for i in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values, digits=3):
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


class EpochWithBareSteps(pl.Callback):
    """Times all of an epoch but the same steps in a plain loop on a copy, which run, and are timed, at its end."""

    def __init__(self, bare):
        self.bare, self.epochs, self.steps, self.resumed = bare, [], [], None

    def on_train_epoch_start(self, *args):
        self.start = time.perf_counter()
        if self.resumed:
            self.epochs[-1] += self.start - self.resumed

    def on_train_epoch_end(self, *args):
        stopped = time.perf_counter()
        self.epochs.append(stopped - self.start)
        self.bare()
        self.resumed = time.perf_counter()
        self.steps.append(self.resumed - stopped)


def epochs(precision, repeats):
    """Images per second of warm epochs of `kdad.run` and of a bare loop over the same cached images and features."""
    for model, batch in BATCH.items():
        cfg = configuration(
            model, "dataset=demo", "category=brick", f"batch_size={batch}", f"trainer.max_epochs={repeats + 2}",
            f"trainer.precision={precision}", "val_fraction=0", "monitor=null", "checkpoint_seconds=100000",
        )  # fmt: skip
        data, detector = build(cfg)
        copy = build_detector(cfg).train()
        optimizer, half = copy.configure_optimizers(), precision == "bf16-mixed"

        def bare(data=data, copy=copy, optimizer=optimizer, half=half):
            for batch in data.train_dataloader():
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    loss = copy.training_loss(batch)["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        timing, folder = EpochWithBareSteps(bare), RunFolder(tempfile.mkdtemp())
        trainer = make_trainer(cfg, folder, data, None, timing, Training(folder, 0, 100000, None))
        attach_features(detector, data.pools, data.store, trainer.strategy.root_device)
        trainer.fit(detector, datamodule=data)
        n, warm, plain = len(data.train_samples), timing.epochs[1:-1], timing.steps[1:-1]
        ratios = [b / w for b, w in zip(plain, warm, strict=True)]
        print(
            f"{model} {precision}, batch {batch}: kdad {spread([n / s for s in warm], 1)} images/s, "
            f"bare {spread([n / s for s in plain], 1)}, kdad / bare {spread(ratios)}",
            flush=True,
        )


def inference(repeats):
    """`forward` against the networks alone."""
    for model in BATCH:
        for size in (128, 256):
            detector = build_detector(configuration(model, f"image_size={size}")).eval()
            images = torch.rand(16, 3, size, size).contiguous(memory_format=torch.channels_last)

            def networks(model=model, detector=detector, images=images):
                normalised = detector.normalise(images)
                features = detector.teacher(normalised)
                if model == "stpm":
                    detector.student(normalised)
                else:
                    detector.decoder(detector.bottleneck(detector.encoder(normalised) if model == "dskd" else features))

            with torch.inference_mode():
                seconds = alternate(repeats, bare=networks, forward=lambda d=detector, x=images: d(x))
            ratios = [f / b for f, b in zip(seconds["forward"], seconds["bare"], strict=True)]
            print(
                f"{model} {size} px, 16 images: networks {spread(seconds['bare'])} s, forward / networks {spread(ratios)}"
            )


def test_set():
    """300 maps of 256 x 256, 200 with an anomalous square: what `DetectionMetrics.update` takes."""
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(300, 1, 256, 256, generator=generator), torch.zeros(300, 1, 256, 256, dtype=torch.bool)
    for i in range(200):
        top, left = torch.randint(0, 200, (2,), generator=generator).tolist()
        masks[i, 0, top : top + 40, left : left + 40] = True
        maps[i, 0, top : top + 40, left : left + 40] += 0.5  # in place: what is made on the way would hide in the peak
    return torch.arange(300), maps.amax(dim=(1, 2, 3)), masks.any(dim=(1, 2, 3)).long(), maps, masks


def metrics(repeats):
    """All of kdad's metrics against torchmetrics' exact pixel AUROC alone."""
    rows = test_set()

    def ours():
        state = DetectionMetrics()
        state.update(*rows)
        state.compute()

    def peer():
        binary_auroc(rows[3].flatten(), rows[4].flatten().int())

    seconds = alternate(repeats, ours=ours, torchmetrics=peer)
    ratios = [o / t for o, t in zip(seconds["ours"], seconds["torchmetrics"], strict=True)]
    print(
        f"all metrics and curves {spread(seconds['ours'])} s, torchmetrics' pixel AUROC {spread(seconds['torchmetrics'])} s,"
    )
    print(f"ours / torchmetrics {spread(ratios)}")


def measure_streaming(budget):
    """Seconds, MiB beyond the test set (the process's peak), and the metrics, in batches of 16."""
    rows = test_set()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if budget == "torchmetrics":
        values = {"pixel_auroc": binary_auroc(rows[3].flatten(), rows[4].flatten().int()).item()}
    else:
        state = DetectionMetrics("streaming", float(budget)) if budget != "exact" else DetectionMetrics()
        for batch in zip(*(part.split(16) for part in rows), strict=True):
            state.update(*batch)
        values = state.compute().metrics
    seconds = time.perf_counter() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, values


def streaming(repeats):
    """Exact metrics, those within a budget in GB, and torchmetrics' pixel AUROC alone, each in a process of its own,
    since a peak cannot be taken back.
    """
    found = {budget: [] for budget in ("exact", "0.1", "0.02", "torchmetrics")}
    for _ in range(repeats):
        for budget, runs in found.items():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                runs.append(process.submit(measure_streaming, budget).result())
    exact = found["exact"][0][2]
    for budget, runs in found.items():
        seconds, memory, values = zip(*runs, strict=True)
        print(f"{budget}: {spread(seconds, 2)} s, {spread(memory, 0)} MiB", end="")
        for name in [name for name in values[0] if f"{name}_error" in values[0]]:
            print(
                f"; {name} off by {abs(values[0][name] - exact[name]):.1e}, stated {values[0][f'{name}_error']:.1e}",
                end="",
            )
        print()


def pictures(repeats):
    """Writing the scores and curves of 300 images with 64 pictures of 256 px, beside the same without pictures."""
    generator = torch.Generator().manual_seed(0)
    state, maps = DetectionMetrics(), torch.rand(300, 1, 256, 256, generator=generator)
    labels = torch.arange(300) % 2
    state.update(
        torch.arange(300), maps.amax(dim=(1, 2, 3)), labels, maps, (maps > 0.98) & (labels.view(-1, 1, 1, 1) == 1)
    )
    outcome = state.compute()
    photograph = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (256, 1))
    kept = {"image": np.dstack([photograph, photograph.T, maps[0, 0]]), "map": photograph, "mask": photograph > 0.9}

    def write(count):
        evaluation = Evaluation(count)
        evaluation.lowest, evaluation.highest, evaluation.outcome, evaluation.decision = 0.0, 1.0, outcome, None
        evaluation.samples = [Sample(Path(f"{i}.png"), int(labels[i]), "kind", None) for i in range(300)]
        evaluation.kept = dict.fromkeys(range(count), kept)
        with tempfile.TemporaryDirectory() as folder:
            evaluation.write(RunFolder(folder))

    seconds = alternate(repeats, without=lambda: write(0), with_pictures=lambda: write(64))
    print(f"without pictures {spread(seconds['without'])} s, with 64 {spread(seconds['with_pictures'])} s")


def given_to(parser):
    """The command line's settings; threads, memory and warnings are as they are to be from then on."""
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--memory", choices=["kept", "default"], default="kept", help="see kdad.speed.keep_memory")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.memory == "kept":
        keep_memory()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print(f"torch {torch.__version__}, {given.threads} threads")
    return given


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    others = {"inference": inference, "metrics": metrics, "streaming": streaming, "pictures": pictures}
    parser.add_argument("what", choices=["epochs", *others])
    parser.add_argument("--precision", default="32-true")
    given = given_to(parser)
    if given.what == "epochs":
        epochs(given.precision, given.repeats)
    else:
        others[given.what](given.repeats)
