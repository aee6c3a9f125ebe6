"""What is measured and kept of a test: metrics, scores, curves and pictures."""

import csv
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import distributed

from kdad.atomic import atomic_write
from kdad.errors import UserError
from kdad.metrics import DetectionMetrics
from kdad.models.base import Batch, Detection

COLOURS = matplotlib.colormaps["inferno"]


class Evaluation(pl.Callback):
    """Collects a test's detections; `metrics` and `write()` give them back; a null metric comes with `<metric>_reason`.

    At most `pictures` maps are kept for pictures, spread evenly over the test images; the metrics see all. `options` of
    the metrics are those of `DetectionMetrics`.
    """

    def __init__(self, pictures: int = 64, options: Mapping[str, Any] | None = None):
        self.pictures = pictures
        self.state = DetectionMetrics(**(options or {}))

    def on_test_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self.samples = trainer.datamodule.test_samples
        self.state.reset()
        count = min(self.pictures, len(self.samples))
        self.wanted = set(np.linspace(0, len(self.samples) - 1, count).round().astype(int).tolist()) if count else set()
        self.kept: dict[int, dict[str, np.ndarray]] = {}
        self.lowest, self.highest = np.inf, -np.inf

    def on_test_batch_end(
        self, trainer: pl.Trainer, detector: pl.LightningModule, outputs: Detection, batch: Batch, *args: Any
    ) -> None:
        maps, masks = outputs.anomaly_map.detach().cpu(), batch.get("mask")
        finite = outputs.image_score.isfinite().cpu() & maps.isfinite().all(dim=(1, 2, 3))
        if not finite.all():
            path = self.samples[batch["index"][~finite.to(batch["index"].device)][0].item()].path
            raise UserError(f"The score of {path} is NaN or infinite: the detector has diverged. Lower optimizer.lr.")
        self.state.update(
            batch["index"].cpu(), outputs.image_score.detach().cpu(), batch["label"].cpu(), maps,
            None if masks is None else masks.cpu(),
        )  # fmt: skip
        self.lowest, self.highest = min(self.lowest, maps.min().item()), max(self.highest, maps.max().item())
        for row, index in enumerate(batch["index"].tolist()):
            if index in self.wanted:
                self.kept[index] = {
                    "image": batch["image"][row].float().cpu().permute(1, 2, 0).numpy(),
                    "map": maps[row, 0].float().numpy(),
                    "mask": None if masks is None else masks[row, 0].cpu().numpy(),
                }

    def on_test_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        """Gather what other processes have seen."""
        self.metrics = self._metrics()
        scores = torch.from_numpy(self.state.image_rows().score).to(detector.device, torch.float32)
        self.columns = {name: values.tolist() for name, values in detector.score_columns(scores).items()}
        if distributed.is_available() and distributed.is_initialized():
            parts: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, (self.lowest, self.highest, self.kept))
            self.lowest, self.highest = min(p[0] for p in parts), max(p[1] for p in parts)
            self.kept = {index: kept for part in parts for index, kept in part[2].items()}
        if self.lowest == self.highest:
            raise UserError(f"Collapsed: every anomaly map is {self.lowest} everywhere")

    def _metrics(self) -> dict[str, float | str | None]:
        """Raises `UserError` where all scores are one number, which would pass for an AUROC of 0.5."""
        metrics = self.state.compute()
        scores = self.state.image_rows().score
        if len(scores) > 1 and scores.min() == scores.max():
            raise UserError(f"Collapsed: the score of every test image is {scores.min()}")
        return {**metrics, "metrics_mode": self.state.served()}

    def write(self, folder: Path) -> None:
        """Write scores.csv, curves.npz and maps/ into a run's folder, the pictures on threads beside the rest."""
        with ThreadPoolExecutor() as threads:  # Pillow encodes without holding the interpreter lock
            drawn = [threads.submit(self._draw, folder / "maps", index) for index in sorted(self.kept)]
            with atomic_write(folder / "scores.csv") as file:
                rows = csv.writer(file, lineterminator="\n")
                rows.writerow(["path", "label", "score", *self.columns])
                for index, score, label, *more in zip(*self.state.image_rows(), *self.columns.values(), strict=True):
                    # What a column says yes or no to is 1 or 0, as a label is.
                    further = [int(value) if isinstance(value, bool) else repr(value) for value in more]
                    rows.writerow([self.samples[index].path, int(label), repr(float(score)), *further])
            with atomic_write(folder / "curves.npz", "wb") as file:
                np.savez_compressed(file, **self.state.curves())
            for picture in drawn:
                picture.result()

    def _draw(self, folder: Path, index: int) -> None:
        name = f"{index:05d}_{self.samples[index].kind}_{self.samples[index].path.stem}.png"
        with atomic_write(folder / name, "wb") as file:
            Image.fromarray(self._picture(**self.kept[index])).save(file, format="png", compress_level=1)  # a third of the time

    def _picture(self, image: np.ndarray, map: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """image | map | mask, side by side, uint8 (H, 3 W + gaps, 3). The colour scale is the whole test's."""
        scaled = (map - self.lowest) / max(self.highest - self.lowest, np.finfo(np.float32).tiny)
        panels = [image, COLOURS(scaled)[..., :3]]
        if mask is not None:
            panels.append(np.repeat(mask[..., None].astype(np.float32), 3, axis=2))
        gap = np.ones((image.shape[0], 2, 3))
        joined = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)
        return (joined * 255).round().clip(0, 255).astype(np.uint8)
