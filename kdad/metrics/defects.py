"""Pixel metrics of some of the defects: by their kind, and by the size of their regions."""

from collections.abc import Mapping
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdad.metrics.aupimo import aupimo
from kdad.metrics.pro import LIMIT
from kdad.metrics.ranking import area, average_precision, f1_max, rank_curve

# Of a region, as a share of its image: the upper ends, and what they are called
SIZES = {0.001: "below 0.1 %", 0.01: "0.1 to 1 %", 0.1: "1 to 10 %", np.inf: "10 % and more"}


class Defects(NamedTuple):
    """Some of a test's defects, measured against all of its normal pixels.

    `by` is kind or size, `name` which of these. There are so many `images` with them, and so many `regions` and
    `pixels` of theirs. `pro` is the mean over these regions, `pixel_ap` and `pixel_f1_max` are of these pixels, all in
    [0, 1]. `aupimo`, by kind, is the mean over these images; NaN where it cannot be measured, and by size, since it is
    an image's.
    """

    by: str
    name: str
    images: int
    regions: int
    pixels: int
    pro: float
    pixel_ap: float
    pixel_f1_max: float
    aupimo: float


class Pixels(NamedTuple):
    """The pixel scores of a whole test."""

    normal: NDArray  # (N,) ascending
    anomalous: NDArray  # (M,)
    weights: NDArray[np.float64]  # (M,) 1 / (size of the pixel's region)
    images: NDArray[np.int64]  # (M,) number of each anomalous pixel's image
    of_normal_images: NDArray  # pixels of normal images alone; empty where they were not kept
    area: int  # pixels of an image


class Details(NamedTuple):
    """What is measured of single images and of some of the defects."""

    metrics: dict[str, float | str | None]  # aupimo, the mean of `overlaps`, or None with aupimo_reason
    overlaps: dict[int, float]  # AUPIMO of each image with a defect, by its number
    defects: list[Defects]


def measure_details(pixels: Pixels | str, kinds: Mapping[int, str]) -> Details:
    """Measure the images with a defect, and the defects of each kind, by name, and of each size, as there are any.

    `pixels` may be the reason why there is nothing to measure; `kinds` names the kind of each image that has one.
    """
    if isinstance(pixels, str):
        return Details({"aupimo": None, "aupimo_reason": pixels}, {}, [])
    overlaps, metrics = _measure_overlaps(pixels)
    numbers, place = np.unique(pixels.images, return_inverse=True)
    named = np.array([kinds.get(int(number), "") for number in numbers], dtype=object)[place]
    groups = [("kind", kind, named == kind) for kind in sorted(set(named) - {""})]
    sizes = np.searchsorted(list(SIZES), np.rint(1 / pixels.weights) / pixels.area, side="right")
    groups += [("size", name, sizes == number) for number, name in enumerate(SIZES.values()) if number in sizes]
    return Details(metrics, overlaps, [_measure(by, name, pixels, chosen, overlaps) for by, name, chosen in groups])


def _measure_overlaps(pixels: Pixels) -> tuple[dict[int, float], dict[str, float | str | None]]:
    if not pixels.of_normal_images.size:
        return {}, {"aupimo": None, "aupimo_reason": "no pixel of a normal image"}
    try:
        overlaps = aupimo(pixels.of_normal_images, pixels.anomalous, pixels.images)
    except ValueError as error:
        return {}, {"aupimo": None, "aupimo_reason": str(error)}
    return overlaps, {"aupimo": fmean(overlaps.values())}


def _measure(by: str, name: str, pixels: Pixels, chosen: NDArray[np.bool_], overlaps: Mapping[int, float]) -> Defects:
    weights, images = pixels.weights[chosen], np.unique(pixels.images[chosen])
    curve = rank_curve(pixels.normal, pixels.anomalous[chosen], weights, ascending=True)
    overlap = [overlaps[int(image)] for image in images if by == "kind" and int(image) in overlaps]
    return Defects(
        by, name, len(images), round(weights.sum()), len(weights), area(curve, LIMIT), average_precision(curve),
        f1_max(curve), float(np.mean(overlap)) if overlap else float("nan"),
    )  # fmt: skip
