"""The metrics of a run as one torchmetrics object: a shell that keeps scores over the functions of `ranking` and `pro`.

Scores are kept as they come, on the CPU, and ranked exactly, up to a memory budget; beyond it pixels go into a
`sketch`, whose error is known.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from kdad.errors import UserError
from kdad.metrics.pro import LIMIT, split
from kdad.metrics.ranking import Curve, area, auroc, average_precision, f1_max, rank_curve, thin
from kdad.metrics.sketch import Sketch
from kdad.metrics.states import ListStates, map_arrays, score_array, truth_array

log = logging.getLogger(__name__)
MODES = ("auto", "exact", "streaming")
GB = 2**30
# Measured peaks. Exact: bytes per byte of a normal score, and per anomalous pixel. Streaming: bytes per cell, with a
# quarter of the budget for the pixels that wait, and a fifth to spare.
EXACT_NORMAL, EXACT_ANOMALOUS, CELL = 3, 200, 600


class ImageRows(NamedTuple):
    """One row per test image, ascending by index."""

    index: NDArray[np.int64]
    score: NDArray[np.float64]
    label: NDArray[np.int64]  # 0 normal, 1 anomalous


class DetectionMetrics(ListStates):
    """All metrics a run reports, from one copy of the pixel scores and one sort of them.

    `mode`: "exact" keeps all pixels; "streaming" works within `memory_gb` (of each process, besides one batch and a row
    per image) and bounds the error of the pixel metrics; "auto" is exact as long as that fits, then streaming, with
    a warning. Batches change nothing in any mode; the order of images does in streaming, within the error.

    An image that comes twice, by its index, counts once: a distributed sampler may pad with duplicates. With several
    processes the first `compute`, `image_rows` or `curves` after an update must be called by all of them.
    Raises `UserError` for an unknown mode or a budget below 0.001.
    """

    full_state_update = True  # else `forward` would join states past the budget

    def __init__(self, mode: str = "exact", memory_gb: float = 4.0) -> None:
        if mode not in MODES:
            raise UserError(f"metrics.mode={mode}: give one of {', '.join(MODES)}")
        if not isinstance(memory_gb, int | float) or not memory_gb >= 0.001:
            raise UserError(f"metrics.memory_gb={memory_gb}: give a number of GB, at least 0.001")
        super().__init__(*_PER_IMAGE, *_WAITING, *Sketch._fields, "needed")
        self.mode, self.budget = mode, int(memory_gb * GB)
        self._tables: tuple[ImageRows, dict[str, NDArray[np.float64]], str] | None = None

    def update(
        self,
        index: Tensor,
        image_score: Tensor,
        label: Tensor,
        anomaly_map: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> None:
        """Add a batch: `index`, `image_score`, `label` (B,); `anomaly_map`, `mask` (B, 1, H, W), the mask bool.

        Without masks there are no pixel metrics, and maps are ignored. An anomalous image with an empty mask counts as
        anomalous for the image metrics, its pixels as normal. Raises ValueError if only some batches have masks, or,
        where pixels go into the sketch, if a score of theirs is NaN or infinite.
        """
        if index.ndim != 1 or image_score.shape != index.shape:
            raise ValueError(f"index and image_score must be (B,), not {(*index.shape,)} and {(*image_score.shape,)}")
        if len(self.index) and bool(len(self.normal)) != (mask is not None):
            raise ValueError(_MIXED_MASKS)
        normal_pixels = anomalous_pixels = needed = np.zeros(len(index), dtype=np.int64)
        if mask is not None:
            if anomaly_map is None or len(anomaly_map) != len(index):
                raise ValueError("masks need an anomaly map per image")
            scores, anomalous = map_arrays(anomaly_map, mask)
            anomalous_pixels = np.count_nonzero(anomalous, axis=(1, 2))
            normal_pixels = np.prod(anomalous.shape[1:]) - anomalous_pixels
            needed = EXACT_NORMAL * scores.itemsize * normal_pixels + EXACT_ANOMALOUS * anomalous_pixels
        rows = {
            "index": index.detach().cpu().numpy().astype(np.int64),
            "score": score_array(image_score).astype(np.float64),
            "label": truth_array(label, index.shape).astype(np.int64),
            "normal_pixels": normal_pixels,
            "anomalous_pixels": anomalous_pixels,
            "sketched": np.zeros(len(index), dtype=bool),
        }
        start = 0
        while start < len(index):
            # Up to the image that goes beyond the limit, so that batches change nothing.
            room = self._limit() - self._needed()
            part = slice(start, start + 1 + np.searchsorted(np.cumsum(needed[start:]), room, side="right"))
            self.append(**{name: values[part] for name, values in rows.items()})
            if mask is not None:
                self.append(**dict(zip(_WAITING, split(scores[part], anomalous[part]), strict=True)))
            self.needed = [torch.tensor([self._needed() + needed[part].sum()])]
            if self._needed() > self._limit():
                self._to_sketch()
            start = part.stop

    def compute(self) -> dict[str, float | str | None]:
        """`{image,pixel}_{auroc,ap,f1_max}` and `pro` in [0, 1], or None with the cause under `<metric>_reason`.

        Of a sketch, pixel metrics come with `<metric>_error`: the exact value is at most so far away, but for float64
        rounding. Raises ValueError if a score is NaN or infinite, or an image that is in a sketch comes from two
        processes.
        """
        index, first = self._once()
        rows = ImageRows(index, self.array("score")[first], self.array("label")[first])
        normal, anomalous = (rows.score[rows.label == kind] for kind in (0, 1))
        image = _curve_or_reason(normal, anomalous, None, "image in the test set")
        sketch = self._sketch()
        if sketch:
            sketch = sketch.extend(*self._waiting(first), cells=self.budget // CELL)
        pixel = self._pixel_curve(first, sketch)

        curves = {}
        if isinstance(image, Curve):
            curves["image_fpr"], curves["image_tpr"] = thin(image)
        if isinstance(pixel, Curve):
            curves["pixel_fpr"], curves["pixel_tpr"] = thin(pixel.unweighted())
            curves["pro_fpr"], curves["pro"] = thin(pixel)
        # Made here because only here do the states hold all processes' data; torchmetrics runs `compute` once per
        # update, so these are as fresh as its own cached value.
        self._tables = rows, curves, "streaming" if sketch else "exact"
        values = _evaluate(_OF_IMAGES, image)
        if sketch and isinstance(pixel, Curve):
            return values | _with_errors(sketch)
        return values | _evaluate(_OF_PIXELS, pixel)

    def image_rows(self) -> ImageRows:
        """Index, score and label of every image."""
        self.compute()
        return self._tables[0]

    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Curves for storage, of 2000 vertices at most (`ranking.thin`); those of undefined metrics are left out.

        `image_fpr`, `image_tpr`, `pixel_fpr`, `pixel_tpr`, and `pro_fpr`, `pro`, which go on to a false-positive rate
        of 1. Of a sketch, a curve between those that bound the exact one.
        """
        self.compute()
        return self._tables[1]

    def served(self) -> str:
        """What the pixel metrics are: "exact", or "streaming" where pixels have gone into a sketch."""
        self.compute()
        return self._tables[2]

    def _once(self) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """The distinct indices, ascending, and where in the states each is; in the sketch, if it is there."""
        index, sketched = self.array("index"), self.array("sketched").astype(bool)
        order = np.argsort(~sketched, kind="stable")
        found, first = np.unique(index[order], return_index=True)
        if len(np.unique(index[sketched])) < np.count_nonzero(sketched):
            raise ValueError("an image that is in a sketch came from two processes: give it to one, or more memory")
        return found, order[first]

    def _waiting(self, images: NDArray[np.intp]) -> tuple[NDArray, NDArray, NDArray]:
        """Normal and anomalous scores and weights outside the sketch, of these images (positions in the states)."""
        normal, anomalous, weight = (self.array(name) for name in _WAITING)
        outside = ~self.array("sketched").astype(bool)
        if len(images) < len(outside):
            once = np.isin(np.arange(len(outside)), images)[outside]
            normal = normal[np.repeat(once, self.array("normal_pixels")[outside])]
            kept = np.repeat(once, self.array("anomalous_pixels")[outside])
            anomalous, weight = anomalous[kept], weight[kept]
        return normal, anomalous, weight

    def _pixel_curve(self, images: NDArray[np.intp], sketch: Sketch | None) -> Curve | str:
        """Region-weighted curve over the pixels of these images (positions in the states), or why there is none."""
        masked = self.array("normal_pixels") + self.array("anomalous_pixels") > 0
        if not masked.any():
            return "the data set has no masks"
        if not masked.all():  # `update` sees only its own process
            raise ValueError(_MIXED_MASKS)
        if sketch is None:
            return _curve_or_reason(*self._waiting(images), "pixel in any mask")
        for kind, cells in (("anomalous", sketch.anomalous_low), ("normal", sketch.normal_low)):
            if not cells.size:
                return f"no {kind} pixel in any mask"
        return sketch.curve

    def _needed(self) -> int:
        """Bytes that the exact ranking of the waiting pixels takes."""
        return int(self.array("needed").sum())

    def _limit(self) -> float:
        """Of these bytes, before the waiting pixels go into the sketch."""
        if self.mode == "exact":
            return np.inf
        return self._share() / (1 if self.mode == "auto" and not len(self.normal_low) else 4)

    def _share(self) -> int:
        """Of the budget, since `compute` has all processes' data in each."""
        several = distributed.is_available() and distributed.is_initialized()
        return self.budget // (distributed.get_world_size() if several else 1)

    def _sketch(self) -> Sketch | None:
        found = [self.array(name) for name in Sketch._fields]
        if not len(found[0]) and not len(found[2]):
            return None
        return Sketch(*(part.T if len(part) else empty for part, empty in zip(found, Sketch(), strict=True)))

    def _to_sketch(self) -> None:
        """All waiting pixels."""
        sketch = self._sketch()
        if sketch is None and self.mode == "auto":
            log.warning(
                "pixel scores no longer fit into metrics.memory_gb=%.3g: pixel metrics are from here on approximate, "
                "with their errors in <metric>_error", self.budget / GB,
            )  # fmt: skip
        first = np.sort(self._once()[1])
        pixels = self._waiting(first)
        rows = {name: self.array(name)[first] for name in _PER_IMAGE}
        for name, values in zip(_WAITING, pixels, strict=True):
            setattr(self, name, [torch.from_numpy(values[:0].copy())])
        sketch = (sketch or Sketch()).extend(*pixels, cells=self._share() // CELL)
        rows["sketched"][:] = True
        for name, values in (rows | {name: cells.T for name, cells in sketch._asdict().items()}).items():
            setattr(self, name, [torch.from_numpy(values)])
        self.needed = []


_PER_IMAGE = ("index", "score", "label", "normal_pixels", "anomalous_pixels", "sketched")
_WAITING = ("normal", "anomalous", "weight")  # of pixels outside the sketch
_MIXED_MASKS = "some images came with a mask and some without: give all of them one (empty if normal), or none"
_OF_IMAGES = {"image_auroc": auroc, "image_ap": average_precision, "image_f1_max": f1_max}
_OF_PIXELS = {
    "pixel_auroc": auroc,
    "pro": partial(area, limit=LIMIT),
    "pixel_ap": average_precision,
    "pixel_f1_max": f1_max,
}


def _curve_or_reason(normal: NDArray, anomalous: NDArray, weights: NDArray | None, what: str) -> Curve | str:
    for kind, scores in (("anomalous", anomalous), ("normal", normal)):
        if not len(scores):
            return f"no {kind} {what}"
    return rank_curve(normal, anomalous, weights)


def _evaluate(metrics: dict[str, Callable[[Curve], float]], curve: Curve | str) -> dict[str, float | str | None]:
    values: dict[str, float | str | None] = {}
    for name, metric in metrics.items():
        if isinstance(curve, Curve):
            values[name] = metric(curve)
        else:
            values |= {name: None, f"{name}_reason": curve}
    return values


def _with_errors(sketch: Sketch) -> dict[str, float]:
    """The middle between the least and the greatest possible value of each pixel metric, and half their distance."""
    rising = {name: metric for name, metric in _OF_PIXELS.items() if name != "pixel_ap"}
    bounds = sketch.bounds(rising) | {"pixel_ap": sketch.average_precision_bounds()}
    values = {name: (least + greatest) / 2 for name, (least, greatest) in bounds.items()}
    return values | {f"{name}_error": (greatest - least) / 2 for name, (least, greatest) in bounds.items()}
