"""AUPIMO, the area under the per-image overlap: how much of a defect is found where normal images stay clean.

Bertoldo et al., "AUPIMO: Redefining Visual Anomaly Detection Benchmarks with High Speed and Low Tolerance", BMVC 2024.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOUNDS = (1e-5, 1e-4)  # the paper's false-positive rates, Sec. 3


def aupimo(
    normal_scores: ArrayLike, anomalous_scores: ArrayLike, images: ArrayLike, bounds: tuple[float, float] = BOUNDS
) -> dict[int, float]:
    """Measure the overlap of each anomalous image. Returns, by its number, the mean in [0, 1].

    `normal_scores` (N,) are all pixels of *normal images* alone, whose share at or above a threshold is the
    false-positive rate; `anomalous_scores` (M,) the pixels inside masks, and `images` (M,) the number of each one's
    image. The overlap of an image is the share of its anomalous pixels that is found; the mean of it is taken over the
    logarithm of the rate between the bounds. All distinct scores are thresholds, and in between the curve is straight,
    as that of `ranking` is; the paper's own code has equally spaced thresholds. Raises ValueError where there are fewer
    normal pixels than the lower bound can be measured on, or bounds are none.
    """
    low, high = bounds
    if not 0 < low < high <= 1:
        raise ValueError(f"bounds are two rising false-positive rates in (0, 1], not {bounds}")
    normal, anomalous, images = np.ravel(normal_scores), np.ravel(anomalous_scores), np.ravel(images)
    if normal.size * low < 1 - 1e-9:
        raise ValueError(
            f"a false-positive rate of {low:g} needs {round(1 / low)} pixels of normal images, not {normal.size}"
        )
    thresholds, rates = _find_thresholds(normal, high)
    order = np.lexsort((anomalous, images))
    numbers, first = np.unique(images[order], return_index=True)
    parts = np.split(anomalous[order], first[1:]) if len(numbers) else []
    return {int(n): _integrate(part, thresholds, rates, low, high) for n, part in zip(numbers, parts, strict=True)}


def _find_thresholds(normal: NDArray, high: float) -> tuple[NDArray, NDArray[np.float64]]:
    """Return the distinct highest scores, descending, up to the first whose rate reaches `high`, and their rates."""
    reach = min(int(np.ceil(high * normal.size)), normal.size)
    cut = np.partition(normal, normal.size - reach)[normal.size - reach]
    values, counts = np.unique(normal[normal >= cut], return_counts=True)
    return values[::-1], np.cumsum(counts[::-1]) / normal.size


def _integrate(scores: NDArray, thresholds: NDArray, rates: NDArray[np.float64], low: float, high: float) -> float:
    """Return the mean overlap of one image, of ascending scores, over the logarithm of the rate.

    Between two rates the share found goes straight from that above the next threshold to that at or above it; the
    integral of a + b x over ln x is a ln(x2 / x1) + b (x2 - x1).
    """
    above = 1 - np.searchsorted(scores, thresholds, side="right") / scores.size
    reached = 1 - np.searchsorted(scores, thresholds, side="left") / scores.size
    starts = np.concatenate(([0.0], rates[:-1]))
    slope = (reached - above) / (rates - starts)
    x1, x2 = np.clip(starts, low, high), np.clip(rates, low, high)
    lengths = np.log(x2 / x1)
    areas = (above - slope * starts) * lengths + slope * (x2 - x1)
    return float(areas.sum() / lengths.sum())
