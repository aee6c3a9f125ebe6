"""The metrics of a run as torchmetrics objects: thin shells that keep scores over the functions of `ranking` and `pro`.

Scores are kept as they come, on the CPU, and ranked exactly: scale, offset and batch size change nothing.
`torchmetrics.AUROC` in contrast puts a sigmoid on any batch that holds a score outside [0, 1].
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdad.metrics.pro import LIMIT, regions
from kdad.metrics.ranking import Curve, area, auroc, average_precision, f1_max, rank_curve, thin
from kdad.metrics.states import ListStates, score_array, truth_array


class AUROC(ListStates):
    """Area under the ROC curve of scores of any shape and range: a float64 scalar, NaN while a class is missing."""

    def __init__(self) -> None:
        super().__init__("normal", "anomalous")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """`labels`: shaped like the scores, 0 or False for normal, 1 or True for anomalous."""
        values, anomalous = score_array(scores), truth_array(labels, scores.shape)
        self.append(normal=values[~anomalous], anomalous=values[anomalous])

    def compute(self) -> Tensor:
        normal, anomalous = self.array("normal"), self.array("anomalous")
        value = area(rank_curve(normal, anomalous)) if len(normal) and len(anomalous) else np.nan
        return torch.tensor(value, dtype=torch.float64)


class PRO(ListStates):
    """Per-region overlap up to the false-positive rate `limit`: a float64 scalar, NaN while it is undefined.

    See `kdad.metrics.pro` for the definition and its source.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        super().__init__("normal", "anomalous", "weight")
        self.limit = limit

    def update(self, anomaly_map: Tensor, mask: Tensor) -> None:
        """Both (B, 1, H, W); the mask bool."""
        self.append(**_pixels(score_array(anomaly_map), truth_array(mask, anomaly_map.shape)))

    def compute(self) -> Tensor:
        normal, anomalous, weight = (self.array(name) for name in ("normal", "anomalous", "weight"))
        value = area(rank_curve(normal, anomalous, weight), self.limit) if len(normal) and len(anomalous) else np.nan
        return torch.tensor(value, dtype=torch.float64)


class ImageRows(NamedTuple):
    """One row per test image, ascending by index."""

    index: NDArray[np.int64]
    score: NDArray[np.float64]
    label: NDArray[np.int64]  # 0 normal, 1 anomalous


class DetectionMetrics(ListStates):
    """All metrics a run reports, from one copy of the pixel scores and one sort of them.

    An image that comes twice, by its index, counts once: a distributed sampler may pad with duplicates. With several
    processes the first `compute`, `image_rows` or `curves` after an update must be called by all of them.
    """

    def __init__(self) -> None:
        per_image = ("index", "score", "label", "normal_pixels", "anomalous_pixels")
        super().__init__(*per_image, "normal", "anomalous", "weight")
        self._tables: tuple[ImageRows, dict[str, NDArray[np.float64]]] | None = None

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
        anomalous for the image metrics, its pixels as normal. Raises ValueError if only some batches have masks.
        """
        if index.ndim != 1 or image_score.shape != index.shape:
            raise ValueError(f"index and image_score must be (B,), not {(*index.shape,)} and {(*image_score.shape,)}")
        if len(self.index) and bool(len(self.normal)) != (mask is not None):
            raise ValueError(_MIXED_MASKS)
        pixels: dict[str, NDArray] = {}
        normal_pixels = anomalous_pixels = np.zeros(len(index), dtype=np.int64)
        if mask is not None:
            if anomaly_map is None or len(anomaly_map) != len(index):
                raise ValueError("masks need an anomaly map per image")
            anomalous = truth_array(mask, anomaly_map.shape)
            pixels = _pixels(score_array(anomaly_map), anomalous)
            anomalous_pixels = np.count_nonzero(anomalous, axis=(1, 2, 3))
            normal_pixels = np.count_nonzero(~anomalous, axis=(1, 2, 3))
        self.append(
            index=index.detach().cpu().numpy().astype(np.int64),
            score=score_array(image_score).astype(np.float64),
            label=truth_array(label, index.shape).astype(np.int64),
            normal_pixels=normal_pixels,
            anomalous_pixels=anomalous_pixels,
            **pixels,
        )

    def compute(self) -> dict[str, float | str | None]:
        """`{image,pixel}_{auroc,ap,f1_max}` and `pro` in [0, 1], or None with the cause under `<metric>_reason`.

        Raises ValueError if a score is NaN or infinite.
        """
        index, first = np.unique(self.array("index"), return_index=True)
        rows = ImageRows(index, self.array("score")[first], self.array("label")[first])
        normal, anomalous = (rows.score[rows.label == kind] for kind in (0, 1))
        image = _curve_or_reason(normal, anomalous, None, "image in the test set")
        pixel = self._pixel_curve(first)

        curves = {}
        if isinstance(image, Curve):
            curves["image_fpr"], curves["image_tpr"] = thin(image)
        if isinstance(pixel, Curve):
            curves["pixel_fpr"], curves["pixel_tpr"] = thin(pixel.unweighted())
            curves["pro_fpr"], curves["pro"] = thin(pixel)
        # Made here because only here do the states hold all processes' data; torchmetrics runs `compute` once per
        # update, so these are as fresh as its own cached value.
        self._tables = rows, curves
        return _evaluate(_OF_IMAGES, image) | _evaluate(_OF_PIXELS, pixel)

    def image_rows(self) -> ImageRows:
        """Index, score and label of every image."""
        self.compute()
        return self._tables[0]

    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Curves for storage, of 2000 vertices at most (`ranking.thin`); those of undefined metrics are left out.

        `image_fpr`, `image_tpr`, `pixel_fpr`, `pixel_tpr`, and `pro_fpr`, `pro`, which go on to a false-positive rate
        of 1.
        """
        self.compute()
        return self._tables[1]

    def _pixel_curve(self, images: NDArray[np.intp]) -> Curve | str:
        """Region-weighted curve over the pixels of these images (positions in the states), or why there is none."""
        normal_pixels, anomalous_pixels = self.array("normal_pixels"), self.array("anomalous_pixels")
        masked = normal_pixels + anomalous_pixels > 0
        if not masked.any():
            return "the data set has no masks"
        if not masked.all():  # `update` sees only its own process
            raise ValueError(_MIXED_MASKS)
        normal, anomalous, weight = (self.array(name) for name in ("normal", "anomalous", "weight"))
        if len(images) < len(masked):
            once = np.isin(np.arange(len(masked)), images)
            normal = normal[np.repeat(once, normal_pixels)]
            anomalous, weight = (pixels[np.repeat(once, anomalous_pixels)] for pixels in (anomalous, weight))
        return _curve_or_reason(normal, anomalous, weight, "pixel in any mask")


_MIXED_MASKS = "some images came with a mask and some without: give all of them one (empty if normal), or none"
_OF_IMAGES = {"image_auroc": auroc, "image_ap": average_precision, "image_f1_max": f1_max}
_OF_PIXELS = {
    "pixel_auroc": auroc,
    "pro": partial(area, limit=LIMIT),
    "pixel_ap": average_precision,
    "pixel_f1_max": f1_max,
}


def _pixels(anomaly_maps: NDArray, masks: NDArray[np.bool_]) -> dict[str, NDArray]:
    """Of a batch (B, 1, H, W): scores of the normal and of the anomalous pixels, and the latter's weights for PRO."""
    if masks.ndim != 4 or masks.shape[1] != 1:
        raise ValueError(f"maps and masks must be (B, 1, H, W), not {masks.shape}")
    weights, _ = regions(masks[:, 0])
    return {"normal": anomaly_maps[~masks], "anomalous": anomaly_maps[masks], "weight": weights}


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
