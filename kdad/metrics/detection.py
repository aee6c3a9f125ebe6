"""The metrics of a run as one torchmetrics object: a shell that keeps scores over the functions of `ranking` and `pro`.

Scores are kept as they come, on the CPU, and ranked exactly, up to a memory budget; beyond it pixels go into a
`sketch`, whose error is known.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from kdad.errors import UserError
from kdad.metrics.defects import Defects, Pixels, measure_details
from kdad.metrics.modules import ListStates, convert_maps, convert_scores, convert_truths
from kdad.metrics.pixels import ExactPixels, SketchedPixels, Values, evaluate, list_metrics, rank_or_reason
from kdad.metrics.pro import split_pixels
from kdad.metrics.ranking import Curve, auroc, average_precision, f1_max, thin
from kdad.metrics.sketch import Sketch

log = logging.getLogger(__name__)
MODES = ("auto", "exact", "streaming")
PIXELS = ("all", "anomalous_images")
GB = 2**30
# Measured peaks. Exact: bytes per byte of a normal score, and per anomalous pixel. Streaming: bytes per cell, with a
# quarter of the budget for the pixels that wait, and a fifth to spare.
EXACT_NORMAL, EXACT_ANOMALOUS, CELL = 3, 200, 600
OF_IMAGES = {"image_auroc": auroc, "image_ap": average_precision, "image_f1_max": f1_max}
PER_IMAGE = ("index", "score", "label", "normal_pixels", "anomalous_pixels", "sketched")
WAITING = ("normal", "anomalous", "weight")  # of pixels outside the sketch
STREAMED = "pixels were streamed: it needs more metrics.memory_gb, or metrics.mode=exact"
MIXED_MASKS = "some images came with a mask and some without: give all of them one (empty if normal), or none"


@dataclass
class ImageRows:
    """One row per test image (n,), ascending by `index`: its `score`, and its `label`, 0 normal, 1 anomalous."""

    index: NDArray[np.int64]
    score: NDArray[np.float64]
    label: NDArray[np.int64]

    def __iter__(self) -> Iterator[NDArray]:
        return iter((self.index, self.score, self.label))


class Outcome(NamedTuple):
    """What a test amounts to.

    `metrics`: `{image,pixel}_{auroc,ap,f1_max}`, `pro` and `pro_<limit>` in [0, 1], or None with the cause under
    `<metric>_reason`; of a sketch, pixel metrics come with `<metric>_error`: the exact value is at most so far away,
    but for float64 rounding. `curves`, for storage, of 2000 vertices at most (`ranking.thin`): `image_fpr`,
    `image_tpr`, `pixel_fpr`, `pixel_tpr`, and `pro_fpr`, `pro`, which go on to a false-positive rate of 1; those of
    undefined metrics are left out. `rows` are the images' scores and labels. Of a sketch, a curve between those that
    bound the exact one. `mode`: "exact", or "streaming" where there is a sketch. `overlaps`, AUPIMO by an image's
    index, and `defects`, metrics by kind and by size, are of exact ones.
    """

    metrics: Values
    rows: ImageRows
    curves: dict[str, NDArray[np.float64]]
    mode: str
    overlaps: dict[int, float]
    defects: list[Defects]


class DetectionMetrics(ListStates):
    """All metrics a run reports, from one copy of the pixel scores and one sort of them.

    `kinds` may name the kind of each anomalous image, by index, before `compute`.

    `mode`: "exact" keeps all pixels; "streaming" works within `memory_gb` (of each process, besides one batch and a row
    per image) and bounds the error of the pixel metrics; "auto" is exact as long as that fits, then streaming, with
    a warning. Streaming is there because the pixel scores of a test of 100,000 images do not fit into memory. Batches
    change nothing in any mode; the order of images does in streaming, within the error. `pixels`: "all", or
    "anomalous_images", which leaves the pixels of normal images out of all pixel metrics, as MKD's released code does:
    fewer false positives are possible then, so that these values are not comparable with others. `pro_limits`: rates up
    to which PRO is integrated, besides 0.3.

    An image that comes twice, by its index, counts once: a distributed sampler may pad with duplicates. With several
    processes the first `compute` after an update must be called by all of them.
    Raises `UserError` for an unknown mode or a budget below 0.001.
    """

    full_state_update = True  # else `forward` would join states past the budget
    # States: a row per image, the pixels that wait outside the sketch, the sketch, and the bytes that these pixels need
    index: list[Tensor]
    normal: list[Tensor]
    normal_low: list[Tensor]
    needed: list[Tensor]

    def __init__(
        self, mode: str = "exact", memory_gb: float = 4.0, pixels: str = "all", pro_limits: Sequence[float] = ()
    ) -> None:
        if mode not in MODES:
            raise UserError(f"metrics.mode={mode}: give one of {', '.join(MODES)}")
        if not isinstance(memory_gb, int | float) or not memory_gb >= 0.001:
            raise UserError(f"metrics.memory_gb={memory_gb}: give a number of GB, at least 0.001")
        if pixels not in PIXELS:
            raise UserError(f"metrics.pixels={pixels}: give one of {', '.join(PIXELS)}")
        super().__init__(*PER_IMAGE, *WAITING, *Sketch._fields, "needed")
        self.mode, self.budget, self.pixels = mode, int(memory_gb * GB), pixels
        self.of_pixels = list_metrics(pro_limits)
        self.kinds: dict[int, str] = {}  # of anomalous images, by index, for what is measured by kind

    def update(
        self,
        index: Tensor,
        image_score: Tensor,
        label: Tensor,
        anomaly_map: Tensor | None = None,
        mask: Tensor | None = None,
        roi: Tensor | None = None,
    ) -> None:
        """Add a batch: `index`, `image_score`, `label` (B,); `anomaly_map`, `mask` and `roi` (B, 1, H, W), these bool.

        Pixels outside the region of interest, `roi`, do not count. Without masks there are no pixel metrics, and maps
        are ignored. An anomalous image with an empty mask counts as anomalous for the image metrics, its pixels as
        normal. Batches may differ in the size of their maps. Raises ValueError for other shapes, for a label, mask or
        roi that is not 0 or 1, if only some batches have masks or a map is missing, or, where pixels go into the
        sketch, if a score of theirs is NaN or infinite.
        """
        if index.ndim != 1 or image_score.shape != index.shape:
            raise ValueError(f"index and image_score must be (B,), not {(*index.shape,)} and {(*image_score.shape,)}")
        if len(self.index) and bool(len(self.normal)) != (mask is not None):
            raise ValueError(MIXED_MASKS)
        normal_pixels = anomalous_pixels = needed = np.zeros(len(index), dtype=np.int64)
        if mask is not None:
            if anomaly_map is None or len(anomaly_map) != len(index):
                raise ValueError("masks need an anomaly map per image")
            scores, anomalous = convert_maps(anomaly_map, mask)
            inside = np.ones_like(anomalous) if roi is None else convert_truths(roi, mask.shape)[:, 0]
            anomalous = anomalous & inside
            counted = convert_truths(label, index.shape) | (self.pixels == "all")
            anomalous_pixels = np.count_nonzero(anomalous, axis=(1, 2)) * counted
            normal_pixels = np.count_nonzero(inside, axis=(1, 2)) * counted - anomalous_pixels
            needed = EXACT_NORMAL * scores.itemsize * normal_pixels + EXACT_ANOMALOUS * anomalous_pixels
        rows = {
            "index": index.detach().cpu().numpy().astype(np.int64),
            "score": convert_scores(image_score).astype(np.float64),
            "label": convert_truths(label, index.shape).astype(np.int64),
            "normal_pixels": normal_pixels,
            "anomalous_pixels": anomalous_pixels,
            "sketched": np.zeros(len(index), dtype=bool),
        }
        start = 0
        while start < len(index):
            # Up to the image that goes beyond the limit, so that batches change nothing.
            room = self._find_limit() - self._count_needed()
            stop = start + 1 + int(np.searchsorted(np.cumsum(needed[start:]), room, side="right"))
            part = slice(start, stop)
            self.append(**{name: values[part] for name, values in rows.items()})
            if mask is not None:
                kept = np.arange(start, min(stop, len(index)))[counted[part]]
                self.append(
                    **dict(zip(WAITING, split_pixels(scores[kept], anomalous[kept], inside[kept]), strict=True))
                )
            self.needed = [torch.tensor([self._count_needed() + needed[part].sum()])]
            if self._count_needed() > self._find_limit():
                self._sketch_waiting()
            start = stop

    def compute(self) -> Outcome:
        """Return the outcome of the test so far.

        Raises ValueError if a score is NaN or infinite, or an image that is in a sketch comes from two processes.
        """
        index, first = self._find_once()
        rows = ImageRows(index, self.read_state("score")[first], self.read_state("label")[first])
        normal, anomalous = (rows.score[rows.label == kind] for kind in (0, 1))
        image = rank_or_reason(normal, anomalous, None, "image in the test set")
        sketch = self._read_sketch()
        pixels = SketchedPixels(sketch, self.budget // CELL) if sketch else ExactPixels(ascending=True)
        described: Pixels | str = STREAMED
        if self._has_masks():
            waiting = self._take_waiting(first)
            if not sketch:
                described = self._describe(*waiting, first)
                waiting = described[:3]
            pixels = pixels.add(*waiting)

        curves = {}
        if isinstance(image, Curve):
            curves["image_fpr"], curves["image_tpr"] = thin(image)
        if isinstance(pixels.curve, Curve):
            curves["pixel_fpr"], curves["pixel_tpr"] = thin(pixels.curve.drop_weights())
            curves["pro_fpr"], curves["pro"] = thin(pixels.curve)
        metrics = evaluate(OF_IMAGES, image) | pixels.measure(self.of_pixels)
        found = measure_details(described if isinstance(pixels.curve, Curve) else pixels.curve, self.kinds)
        mode = "streaming" if sketch else "exact"
        return Outcome(metrics | found.metrics, rows, curves, mode, found.overlaps, found.defects)

    def _describe(self, normal: NDArray, anomalous: NDArray, weight: NDArray, images: NDArray[np.intp]) -> Pixels:
        """Return what `_take_waiting` has of these images, none of them in a sketch, with whose each pixel is."""
        counted = np.isin(np.arange(len(self.read_state("index"))), images)
        normal_pixels, anomalous_pixels = (
            self.read_state(name) * counted for name in ("normal_pixels", "anomalous_pixels")
        )
        of_normal = normal[np.repeat(self.read_state("label") == 0, normal_pixels)]
        of_image = np.repeat(self.read_state("index"), anomalous_pixels)
        area = int((normal_pixels + anomalous_pixels).max(initial=1))
        return Pixels(np.sort(normal), anomalous, weight, of_image, of_normal, area)

    def _find_once(self) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """Return each image's index once, ascending, and where it stands, though several processes may have seen it.

        Of an image that came twice, the one in the sketch counts. Raises ValueError where an image is in the sketches
        of two processes.
        """
        index, sketched = self.read_state("index"), self.read_state("sketched").astype(bool)
        order = np.argsort(~sketched, kind="stable")
        found, first = np.unique(index[order], return_index=True)
        if len(np.unique(index[sketched])) < np.count_nonzero(sketched):
            raise ValueError("an image that is in a sketch came from two processes: give it to one, or more memory")
        return found, order[first]

    def _has_masks(self) -> bool:
        """Tell whether the images have masks. Raises ValueError where some have and others have not."""
        masked = self.read_state("normal_pixels") + self.read_state("anomalous_pixels") > 0
        if self.pixels != "all":  # those of normal images were left out
            masked = masked[self.read_state("label") == 1]
        if masked.any() and not masked.all():  # `update` sees only its own process
            raise ValueError(MIXED_MASKS)
        return bool(masked.any())

    def _take_waiting(self, images: NDArray[np.intp]) -> tuple[NDArray, NDArray, NDArray]:
        """Return the pixels outside the sketch: normal scores, anomalous scores and weights.

        `images`: of which images, by their positions in the states, which stay as they are.
        """
        normal, anomalous, weight = (self.read_state(name) for name in WAITING)
        outside = ~self.read_state("sketched").astype(bool)
        if len(images) < len(outside):
            once = np.isin(np.arange(len(outside)), images)[outside]
            normal = normal[np.repeat(once, self.read_state("normal_pixels")[outside])]
            kept = np.repeat(once, self.read_state("anomalous_pixels")[outside])
            anomalous, weight = anomalous[kept], weight[kept]
        return normal, anomalous, weight

    def _count_needed(self) -> int:
        """Return how many bytes the exact ranking of the waiting pixels takes."""
        return int(self.read_state("needed").sum())

    def _find_limit(self) -> float:
        """Return how many bytes `_count_needed` may reach before the waiting pixels go into the sketch."""
        if self.mode == "exact":
            return np.inf
        return self._find_share() / (1 if self.mode == "auto" and not len(self.normal_low) else 4)

    def _find_share(self) -> int:
        """Return this process's share of the budget in bytes: in `compute`, each process holds the data of all."""
        several = distributed.is_available() and distributed.is_initialized()
        return self.budget // (distributed.get_world_size() if several else 1)

    def _read_sketch(self) -> Sketch | None:
        """Return the sketch in the states, None where no pixel is in it."""
        found = [self.read_state(name) for name in Sketch._fields]
        if not len(found[0]) and not len(found[2]):
            return None
        return Sketch(*(part.T if len(part) else empty for part, empty in zip(found, Sketch(), strict=True)))

    def _sketch_waiting(self) -> None:
        """Move all waiting pixels into the sketch."""
        sketch = self._read_sketch()
        if sketch is None and self.mode == "auto":
            log.warning(
                "pixel scores no longer fit into metrics.memory_gb=%.3g: pixel metrics are from here on approximate, "
                "with their errors in <metric>_error", self.budget / GB,
            )  # fmt: skip
        first = np.sort(self._find_once()[1])
        waiting = self._take_waiting(first)
        rows = {name: self.read_state(name)[first] for name in PER_IMAGE}
        for name, values in zip(WAITING, waiting, strict=True):
            setattr(self, name, [torch.from_numpy(values[:0].copy())])
        pixels = SketchedPixels(sketch or Sketch(), self._find_share() // CELL).add(*waiting)
        rows["sketched"][:] = True
        for name, values in (rows | {name: cells.T for name, cells in pixels.sketch._asdict().items()}).items():
            setattr(self, name, [torch.from_numpy(values)])
        self.needed = []
