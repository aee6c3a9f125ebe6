"""A test: detections collected, measured as one outcome, and written: scores, curves, pictures."""

import csv
import math
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from PIL import Image
from torch import distributed

from kdad.data.base import AnomalyDataModule
from kdad.data.samples import Sample
from kdad.engine.checkpoint import Checkpoint
from kdad.engine.decide import Counts, find_decision, rate
from kdad.engine.extra import ExtraMetrics
from kdad.engine.record import is_first_process
from kdad.engine.run_folder import RunFolder
from kdad.engine.saturated import SaturatedOverlap
from kdad.errors import UserError
from kdad.metrics import DetectionMetrics, Outcome
from kdad.metrics.defects import Defects
from kdad.models.base import Batch, KDDetector

DECIDED = ("normalised_score", "decision")  # columns of scores.csv: 0.5 at the threshold; 1 anomalous, 0 normal
LARGEST = 1024  # pixels of a side of a drawn map
COLOURS = matplotlib.colormaps["inferno"]


class Evaluation(pl.Callback):
    """A callback that gathers the detections of a test: `outcome` is computed after it, `write` leaves it in a folder.

    At most `pictures` maps are kept for pictures, spread evenly over the test images; the metrics see all. `options` of
    the metrics are those of `DetectionMetrics`; `extra` are metrics of one's own. `setting` is what the detector's
    thresholds must have been taken with.
    """

    outcome: Outcome

    def __init__(
        self,
        pictures: int = 64,
        options: Mapping[str, Any] | None = None,
        setting: Mapping[str, Any] | None = None,
        extra: ExtraMetrics | None = None,
    ):
        self.pictures, self.setting, self.extra = pictures, setting or {}, extra or ExtraMetrics()
        self.state = DetectionMetrics(**{key: value for key, value in (options or {}).items() if key != "extra"})

    def on_test_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.begin(detector, data.test_samples)  # type: ignore[arg-type]
        self.saturated = SaturatedOverlap(data, self.samples, self.state.budget)

    def begin(self, detector: KDDetector, samples: list[Sample]) -> None:
        """Prepare for a new test, of these images."""
        self.samples = samples
        self.state.reset()
        self.extra.begin()
        self.state.kinds = {i: sample.kind for i, sample in enumerate(samples) if sample.label}
        self.decision, self.counts = find_decision(detector, self.setting), Counts()
        count = min(self.pictures, len(self.samples))
        self.wanted = set(np.linspace(0, len(self.samples) - 1, count).round().astype(int).tolist()) if count else set()
        self.kept: dict[int, dict[str, Any]] = {}
        self.lowest: float = math.inf
        self.highest: float = -math.inf

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        detector: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        maps, masks = outputs.anomaly_map.detach().cpu(), batch.get("mask")
        finite = outputs.image_score.isfinite().cpu() & maps.isfinite().all(dim=(1, 2, 3))
        if not finite.all():
            path = self.samples[batch["index"][~finite.to(batch["index"].device)][0].item()].path
            raise UserError(f"The score of {path} is NaN or infinite: the detector has diverged. Lower optimizer.lr.")
        self.state.update(
            batch["index"].cpu(), outputs.image_score.detach().cpu(), batch["label"].cpu(), maps,
            None if masks is None else masks.cpu(), batch["roi"].cpu() if "roi" in batch else None,
        )  # fmt: skip
        self.saturated.add(batch["index"], maps, masks)
        self.extra.add(maps, masks, outputs.image_score, batch["label"])
        if self.decision and masks is not None:
            self.counts.add(batch["index"], maps, masks.cpu(), self.decision.pixel_threshold)
        self.lowest, self.highest = min(self.lowest, maps.min().item()), max(self.highest, maps.max().item())
        for row, index in enumerate(batch["index"].tolist()):
            if index in self.wanted:
                self.kept[index] = {
                    "image": shrink(batch["image"][row].float().cpu()).permute(1, 2, 0).numpy(),
                    "map": shrink(maps[row].float())[0].numpy(),
                    "mask": None if masks is None else shrink(masks[row].cpu().float())[0].numpy() >= 0.5,
                }

    def on_test_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        """Gather what other processes have seen. Raises `UserError` where all scores or all maps are one number."""
        self.outcome = self.state.compute()
        raw = self.outcome.rows.score
        if len(raw) > 1 and raw.min() == raw.max():  # which would pass for an AUROC of 0.5
            raise UserError(f"Collapsed: the score of every test image is {raw.min()}")
        if distributed.is_available() and distributed.is_initialized():
            parts: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(
                parts, (self.lowest, self.highest, self.kept, self.counts.by_image, self.saturated)
            )
            self.lowest, self.highest = min(float(p[0]) for p in parts), max(float(p[1]) for p in parts)
            self.kept = {index: kept for part in parts for index, kept in part[2].items()}
            self.counts.by_image = {index: counts for part in parts for index, counts in part[3].items()}
            self.saturated.join(part[4] for part in parts)
        more = self.saturated.compute() | self.extra.compute()
        self.outcome = self.outcome._replace(metrics=self.outcome.metrics | more)
        if self.lowest == self.highest:
            raise UserError(f"Collapsed: every anomaly map is {self.lowest} everywhere")

    def write(self, folder: RunFolder) -> None:
        """Write scores, curves and pictures, the pictures on threads beside the rest."""
        with ThreadPoolExecutor() as threads:  # Pillow encodes without holding the interpreter lock
            drawn = [threads.submit(self._draw, folder, index) for index in sorted(self.kept)]
            with folder.write(folder.scores) as file:
                rows = csv.writer(file, lineterminator="\n")
                overlaps = self.outcome.overlaps
                columns = [*(DECIDED if self.decision else ()), *(["aupimo"] if overlaps else [])]
                rows.writerow(["path", "label", "score", "kind", *columns])
                for index, score, label in zip(*self.outcome.rows, strict=True):
                    sample, score = self.samples[index], float(score)
                    decided = [] if self.decision is None else [
                        repr(float(self.decision.image.normalise(score))), int(score > self.decision.image_threshold)
                    ]  # fmt: skip
                    overlap = [repr(overlaps[index]) if index in overlaps else ""] if overlaps else []
                    rows.writerow([sample.path, int(label), repr(score), sample.kind, *decided, *overlap])
            if self.outcome.defects:
                with folder.write(folder.defects) as file:
                    rows = csv.writer(file, lineterminator="\n")
                    rows.writerows([Defects._fields, *self.outcome.defects])
            with folder.write(folder.curves, "wb") as file:
                np.savez_compressed(file, **self.outcome.curves)  # type: ignore[arg-type]
            for picture in drawn:
                picture.result()

    def _draw(self, folder: RunFolder, index: int) -> None:
        name = f"{index:05d}_{self.samples[index].kind}_{self.samples[index].path.stem}.png"
        with folder.write(folder.maps / name, "wb") as file:
            picture = Image.fromarray(self.make_picture(**self.kept[index]))
            picture.save(file, format="png", compress_level=1)  # in a third of the time

    def make_picture(self, image: np.ndarray, map: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """Return image | map | mask, side by side, uint8 (H, 3 W + gaps, 3). The colour scale is the whole test's."""
        scaled = (map - self.lowest) / max(self.highest - self.lowest, float(np.finfo(np.float32).tiny))
        panels = [image, COLOURS(scaled)[..., :3]]
        if mask is not None:
            panels.append(np.repeat(mask[..., None].astype(np.float32), 3, axis=2))
        gap = np.ones((image.shape[0], 2, 3))
        joined = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)
        return (joined * 255).round().clip(0, 255).astype(np.uint8)


def shrink(values: torch.Tensor) -> torch.Tensor:
    """Return (C,H,W) for a picture, at most `LARGEST` pixels wide or high: whole pictures are many times larger."""
    share = LARGEST / max(values.shape[1:])
    if share >= 1:
        return values
    size = [max(1, round(side * share)) for side in values.shape[1:]]
    return F.interpolate(values[None], size=size, mode="bilinear", antialias=True)[0]


def test(
    trainer: pl.Trainer,
    detector: KDDetector,
    data: AnomalyDataModule,
    evaluation: Evaluation,
    folder: RunFolder,
    earlier: Sequence[Path] = (),
) -> dict[str, Any]:
    """Test, write scores, curves and pictures, and return what results.json says of it.

    `earlier`: checkpoints of earlier epochs that are tested before, with the statistics after fit that the detector
    has; metrics are then means over all these epochs, all else is of the detector as it is.
    """
    start = time.perf_counter()
    own = {name: value.clone() for name, value in detector.state_dict().items() if not name.startswith("teacher.")}
    kept = {name: own[name] for name in detector.provenance.get("statistics", ()) if name in own}
    each = []
    for path in earlier:
        Checkpoint.load(path).restore(detector, keep=kept)
        trainer.test(detector, datamodule=data, verbose=False)
        each.append(evaluation.outcome.metrics)
    if earlier:
        detector.load_state_dict(own, strict=False)
    if data.test_samples:
        trainer.test(detector, datamodule=data, verbose=False)
    else:  # Lightning would warn, and begin nothing
        evaluation.begin(detector, [])
        with warnings.catch_warnings(action="ignore"):  # that nothing was tested
            nothing = evaluation.state.compute()
        evaluation.outcome = nothing._replace(metrics=nothing.metrics | evaluation.extra.compute())
    outcome = evaluation.outcome
    metrics = average([*each, outcome.metrics])
    seconds = time.perf_counter() - start
    if is_first_process():
        evaluation.write(folder)
    return {
        **metrics,
        **rate(evaluation.decision, outcome.rows.score, outcome.rows.label, evaluation.counts),
        "metrics_mode": outcome.mode,
        "category": data.category,
        "backbone": detector.teacher.tag,
        "weights": detector.teacher.source,
        "weights_fingerprint": detector.teacher.fingerprint,
        "levels": " ".join(detector.teacher.paths),
        **data.facts,
        "n_test": len(outcome.rows.index),
        **data.store.describe(),
        "test_seconds": round(seconds, 3),
    }


def average(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of each metric over the tests of several epochs; of one test, its own metrics.

    With `<metric>_std`, their sample standard deviation, and `average_epochs`, their number. Bounds, `<metric>_error`,
    are averaged, too.
    """
    found: dict[str, Any] = {**each[-1], "average_epochs": len(each)}
    for key, value in each[-1].items():
        if len(each) > 1 and isinstance(value, float):
            values = [metrics[key] for metrics in each]
            if None in values:  # a metric of one's own may lack a value at one epoch alone
                found |= {key: None, f"{key}_reason": each[values.index(None)][f"{key}_reason"]}
                continue
            found[key] = statistics.fmean(values)
            if not key.endswith("_error"):
                found[f"{key}_std"] = statistics.stdev(values)
    return found
