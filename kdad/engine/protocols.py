"""A test counted by other protocols, too, from the same anomaly maps: what a protocol alone is worth.

Its numbers are not comparable with kdad's own, and stand in results.json beside them, under `<metric>@<protocol>`.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import distributed

from kdad.data.base import AnomalyDataModule
from kdad.data.corruption import MOVES
from kdad.data.samples import Sample
from kdad.errors import UserError
from kdad.geometry import ImageSize, as_pair
from kdad.metrics.approximate import approximate_pro
from kdad.metrics.detection import GB, OF_IMAGES
from kdad.metrics.pixels import ExactPixels, Values, evaluate, list_metrics, rank_or_reason
from kdad.metrics.pro import split_pixels
from kdad.models.base import Batch
from kdad.settings.protocols import Protocol, describe_protocol, read_protocols

OF_PIXELS = list_metrics()
THREE = ("image_auroc", "pixel_auroc", "pro")  # by whose mean RD++'s code chooses an epoch
# Bytes that counting takes for each byte of the maps, besides these: measured 3.7 with 2 % of the pixels anomalous, 6.9
# with 10 %
PEAK = 8


def watch_protocols(cfg: DictConfig) -> "list[ProtocolTest]":
    """Return a list with the callback that counts tests by the protocols of a configuration; empty where it has none.

    Raises `UserError` for a protocol that there is not, or whose file holds what it may not.
    """
    found = read_protocols(cfg.get("protocol"), cfg.average_epochs)
    for key in ("tiling.size", "dataset.roi"):
        if found and OmegaConf.select(cfg, key) is not None:
            raise UserError(f"protocol={cfg.protocol}: no other paper's code knows of {key}. Leave one of them out")
    moved = (cfg.get("corruption", "none"), cfg.get("severity", 1))
    return [ProtocolTest(found, cfg.metrics.memory_gb, *moved)] if found else []


class ProtocolTest(pl.Callback):
    """A callback that keeps the maps of a test, counts it by each of the protocols, and drops them.

    Where maps and counting do not fit into `memory_gb`, a protocol's numbers are None, with that reason. Masks are
    read from their files anew, and moved as `corruption` moves the images.
    """

    def __init__(
        self, protocols: Sequence[Protocol], memory_gb: float = 4.0, corruption: str = "none", severity: int = 1
    ):
        self.protocols, self.memory_gb = protocols, memory_gb
        self.corruption, self.severity = corruption, severity
        self.tests: list[dict[str, Values]] = []  # of each test so far, by the protocol's name

    def on_test_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self.data: AnomalyDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self.kept: dict[int, tuple[NDArray, float]] = {}  # of each image, its map (H,W) and score
        self.reasons = {protocol.name: self.refuse_memory(protocol) for protocol in self.protocols}

    def refuse_memory(self, protocol: Protocol) -> str:
        """Return why maps cannot be kept and counted by a protocol; nothing where they can."""
        height, width = as_pair(self.data.image_size)
        pixels = height * width + PEAK * (protocol.map_size**2 if protocol.map_size else height * width)
        needed = 4 * pixels * len(self.data.test_samples) / GB  # each process gets the maps of all
        if needed <= self.memory_gb:
            return ""
        enough = math.ceil(10 * needed) / 10
        return f"maps of {len(self.data.test_samples)} images need metrics.memory_gb={enough} to be counted so"

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        detector: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if all(self.reasons.values()):
            return
        maps, scores = outputs.anomaly_map.detach().cpu(), outputs.image_score.detach().cpu()
        maps, scores = (values if values.dtype == torch.float64 else values.float() for values in (maps, scores))
        for row, index in enumerate(batch["index"].tolist()):
            self.kept[index] = maps[row, 0].numpy(), scores[row].item()

    def on_test_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        """Count the test by each protocol, with what other processes have seen."""
        if distributed.is_available() and distributed.is_initialized():
            parts: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, self.kept)
            self.kept = {index: kept for part in parts for index, kept in part.items()}
        self.tests.append({protocol.name: self.count(protocol) for protocol in self.protocols})
        self.kept = {}

    def count(self, protocol: Protocol) -> Values:
        """Return the seven metrics of the images that were kept, by a protocol; None with a reason where undefined."""
        if reason := self.reasons[protocol.name]:
            return refuse(reason)
        order = sorted(self.kept)
        samples = [self.data.test_samples[index] for index in order]
        maps = np.stack([resize_map(self.kept[index][0], protocol) for index in order])
        masks = np.stack([self.make_mask(sample, protocol) for sample in samples]) if self.data.has_masks else None
        return measure(
            protocol, maps, masks,
            np.array([self.kept[index][1] for index in order]), np.array([sample.label for sample in samples]),
        )  # fmt: skip

    def make_mask(self, sample: Sample, protocol: Protocol) -> NDArray[np.bool_]:
        """Return an image's mask by a protocol, bool of the size of its maps."""
        size = self.data.image_size
        if sample.mask is None:
            mask = np.zeros(as_pair(size), dtype=bool)
        else:
            mask = resize_mask(self.data.read_anomalous_pixels(sample)[0], size, protocol)
        if self.corruption in MOVES:
            moved = MOVES[self.corruption](torch.from_numpy(mask)[None].float(), self.severity)
            mask = (moved[0] >= 0.5).numpy()
        mask = crop(mask, protocol.crop)
        if protocol.map_size is None:
            return mask
        rows, columns = (np.arange(protocol.map_size) * side // protocol.map_size for side in mask.shape)
        return mask[np.ix_(rows, columns)]

    def summarise(self) -> dict[str, Any]:
        """Return what results.json says: `<metric>@<protocol>`, None with `<metric>@<protocol>_reason`.

        `protocol@<protocol>` says in what it differs.
        """
        found: dict[str, Any] = {}
        for protocol in self.protocols:
            tests = [test[protocol.name] for test in self.tests] or [refuse("no image in the test set")]
            found[f"protocol@{protocol.name}"] = describe_protocol(protocol)
            for key, value in choose_epoch(tests, protocol.epoch).items():
                metric, reason = (key.removesuffix("_reason"), "_reason" * key.endswith("_reason"))
                found[f"{metric}@{protocol.name}{reason}"] = value
        return found


def refuse(reason: str) -> Values:
    """Return None and the reason for every metric."""
    return evaluate(OF_IMAGES, reason) | evaluate(OF_PIXELS, reason)


def choose_epoch(tests: Sequence[Values], rule: str) -> Values:
    """Return each metric's mean over the tests of several epochs, or by a rule that looks at them those of the best."""

    def rate(test: Values) -> float:
        names = THREE if rule == "best_of_three" else THREE[:1]
        return statistics.fmean([value for name in names if isinstance(value := test[name], float)] or [0.0])

    if rule != "tested":
        return max(tests, key=rate)
    numbers = {key: [test.get(key) for test in tests] for key in tests[-1]}
    return {
        key: statistics.fmean(values) if all(isinstance(value, float) for value in values) else tests[-1][key]  # type: ignore[arg-type]
        for key, values in numbers.items()
    }


def crop(values: NDArray, share: float) -> NDArray:
    """Return the middle of (H,W), a share of each side, placed as torchvision's CenterCrop places it."""
    height, width = (round(side * share) or 1 for side in values.shape)
    top, left = round((values.shape[0] - height) / 2), round((values.shape[1] - width) / 2)
    return values[top : top + height, left : left + width]


def resize_map(values: NDArray, protocol: Protocol) -> NDArray:
    """Return a map (H,W) cropped, and resized bilinearly if the protocol says to what."""
    cropped = crop(values, protocol.crop)
    if protocol.map_size is None:
        return cropped
    tensor = torch.from_numpy(np.ascontiguousarray(cropped))[None, None]
    return F.interpolate(tensor, size=[protocol.map_size] * 2, mode="bilinear", align_corners=False)[0, 0].numpy()


def resize_mask(anomalous: NDArray[np.bool_], size: ImageSize, protocol: Protocol) -> NDArray[np.bool_]:
    """Return a mask bool (H,W) as stored, resized to `size` and cut, by the protocol's rule."""
    if protocol.mask_resize == "bilinear_float":
        whole, full = Image.fromarray(anomalous.astype(np.float32)), 1.0
    else:
        whole, full = Image.fromarray(anomalous.astype(np.uint8) * 255), 255.0
    how = Image.Resampling.NEAREST if protocol.mask_resize == "nearest" else Image.Resampling.BILINEAR
    return np.asarray(whole.resize(as_pair(size)[::-1], how)) > protocol.mask_cut * full


def measure(
    protocol: Protocol, maps: NDArray, masks: NDArray[np.bool_] | None, scores: NDArray, labels: NDArray[np.int64]
) -> Values:
    """Return the seven metrics of maps and masks (N,H,W), image scores and labels (N,), by a protocol.

    One that is undefined is None, with the cause under `<metric>_reason`.
    """
    if protocol.image_score != "detector":
        flat = maps.reshape(len(maps), -1)
        kept = max(1, int(0.01 * flat.shape[1])) if protocol.image_score == "top_1_percent" else 1
        scores = np.partition(flat, -kept, axis=1)[:, -kept:].astype(np.float64).mean(axis=1)
    anomalous = labels == 1
    if protocol.labels == "mask" and masks is not None:
        anomalous = masks.any(axis=(1, 2))
    image = rank_or_reason(scores[~anomalous], scores[anomalous], None, "image in the test set")
    if masks is None:
        return evaluate(OF_IMAGES, image) | evaluate(OF_PIXELS, "the data set has no masks")
    if protocol.pixels == "anomalous_images":
        maps, masks = maps[labels == 1], masks[labels == 1]
    found = evaluate(OF_IMAGES, image) | ExactPixels().add(*split_pixels(maps, masks)).measure()
    how = protocol.pro_thresholds, protocol.pro_mean_over, protocol.pro_rescale
    if found["pro"] is not None and how != (None, "regions", "none"):
        try:
            found["pro"] = approximate_pro(maps, masks, *how)
        except ValueError as error:
            found |= {"pro": None, "pro_reason": str(error)}
    return found
