"""PRO as released codes have it: equally spaced thresholds, the mean over images, axes that are rescaled.

Each is another quantity than `pro`, and none is kdad's: they are there to say what such a protocol alone is worth.
"""

import numpy as np
from numpy.typing import NDArray

from kdad.metrics.pro import LIMIT, find_regions, pro

RESCALED = ("none", "rate", "both")


def approximate_pro(
    maps: NDArray,
    masks: NDArray[np.bool_],
    thresholds: int | None = None,
    mean_over: str = "regions",
    rescale: str = "none",
) -> float:
    """Return PRO up to a false-positive rate of 0.3 of maps and masks (B, H, W), in [0, 1], by another protocol.

    `thresholds`: so many, equally spaced between the lowest and the highest score; None: all distinct scores.
    `mean_over` "regions" of all images; "images": the mean of PRO of each image that has an anomalous pixel by itself.
    `rescale`: "none", with the curve from (0, 0) and interpolated at 0.3; "rate", the rates below 0.3 divided by the
    highest of them, as RD's code does; "both", rates and overlaps up to 0.3 each moved to [0, 1], as STPM's does.
    Raises ValueError, with the reason, where it is undefined.
    """
    if mean_over == "images":
        defective = np.flatnonzero(masks.any(axis=(1, 2)))
        if not len(defective):
            raise ValueError("no anomalous pixel in any mask")
        return float(
            np.mean([approximate_pro(maps[[i]], masks[[i]], thresholds, "regions", rescale) for i in defective])
        )
    for kind, there in (("anomalous", masks.any()), ("normal", not masks.all())):
        if not there:
            raise ValueError(f"no {kind} pixel in any mask")
    return pro(maps, masks) if thresholds is None else _integrate(*_sample(maps, masks, thresholds, rescale), rescale)


def _sample(
    maps: NDArray, masks: NDArray[np.bool_], number: int, rescale: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false-positive rates and mean overlaps of the regions, both rising, where scores above a threshold count.

    Thresholds go from the lowest score upwards, the highest not among them; with "both" from the highest downwards, the
    lowest not among them; with "none" both ends are.
    """
    low, high = float(maps.min()), float(maps.max())
    steps = np.arange(number + (rescale == "none"))
    step = (high - low) / number
    thresholds = high - step * steps if rescale == "both" else (low + step * steps)[::-1]
    normal, anomalous = np.sort(maps[~masks]), maps[masks]
    weights, regions = find_regions(masks)
    order = np.argsort(anomalous)
    rates = (normal.size - np.searchsorted(normal, thresholds, side="right")) / normal.size
    not_covered = np.append(0.0, np.cumsum(weights[order]))
    covered = not_covered[-1] - not_covered[np.searchsorted(anomalous[order], thresholds, side="right")]
    return rates, covered / regions


def _integrate(rates: NDArray[np.float64], overlaps: NDArray[np.float64], rescale: str) -> float:
    if rescale == "none":
        x, y = (np.concatenate(([0.0], values, [1.0])) for values in (rates, overlaps))
        inside = x <= LIMIT
        return _area(np.append(x[inside], LIMIT), np.append(y[inside], np.interp(LIMIT, x, y))) / LIMIT
    inside = rates < LIMIT if rescale == "rate" else rates <= LIMIT
    x, y = rates[inside], overlaps[inside]
    lowest = 0.0 if rescale == "rate" or not len(x) else x[0]
    if len(x) < 2 or x[-1] == lowest or (rescale == "both" and y[-1] == y[0]):
        raise ValueError(f"too few of {len(rates)} equally spaced thresholds have false-positive rates up to {LIMIT}")
    return _area(x, y) / x[-1] if rescale == "rate" else _area(x, y - y[0]) / (x[-1] - lowest) / (y[-1] - y[0])


def _area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
