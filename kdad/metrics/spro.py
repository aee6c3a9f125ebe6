"""sPRO, the saturated per-region overlap: PRO where a part of a region may be enough.

Bergmann, Batzner, Fauser, Sattlegger and Steger, "Beyond Dents and Scratches: Logical Constraints in Unsupervised
Anomaly Detection and Localization", IJCV 130, 2022, Sec. 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdad.metrics.ranking import Curve, area, rank_curve

LIMITS = (0.05, 0.3)  # false-positive rates; the first is the paper's headline
Region = tuple[NDArray[np.bool_], float]  # mask (H, W), and how many of its pixels are enough


class Split(NamedTuple):
    """The pixels of an image, as a curve is made of them."""

    normal: NDArray  # (N,) scores of the pixels in no region
    covered: NDArray  # (M,) scores of pixels in regions, once for each region that they are in
    weights: NDArray[np.float64]  # (M,) what each adds to the sPRO of its region, once all above it are found


def spro(anomaly_maps: ArrayLike, regions: Sequence[Sequence[Region]], limit: float = LIMITS[0]) -> float:
    """Return the area under sPRO against false-positive rate, up to `limit` and divided by it: in [0, 1].

    Maps are (B, H, W); `regions` has those of each image, which may overlap and need not be connected. At a threshold
    the sPRO of a region is min(found / s, 1) of its `found` pixels, s being the saturation; sPRO is the mean over the
    regions of all images, and the rate is over the pixels of all images that are in no region. Every distinct score is
    a threshold; where s is at least its region's size everywhere, this is `pro` of these regions. Geometry: masks have
    the size of the maps. Where that is not the size in which saturations were given in pixels, these have to be scaled
    as the image's area was; a saturation given as a share of the region needs only the region's size here.
    Raises ValueError for a region without pixels, for s that is not positive, where there is no region or no pixel
    outside them, or a score is not finite.
    """
    maps = np.asarray(anomaly_maps)
    if maps.ndim != 3 or len(maps) != len(regions):
        raise ValueError(f"maps must be (B, H, W), with regions for each: {maps.shape} and {len(regions)} given")
    return area(make_curve([split_pixels(*pair) for pair in zip(maps, regions, strict=True)]), limit)


def split_pixels(anomaly_map: NDArray, regions: Sequence[Region]) -> Split:
    """Split the pixels of a map (H, W) into those of its regions and those in none. Raises ValueError, see `spro`.

    The k-th highest pixel of a region adds min(k / s, 1) - min((k - 1) / s, 1) to its sPRO. Those that add nothing
    are left out.
    """
    outside = np.ones(anomaly_map.shape, dtype=bool)
    covered, weights = [anomaly_map[:0, 0]], [np.zeros(0)]
    for mask, saturation in regions:
        if not mask.any() or not saturation > 0:
            raise ValueError(f"a region needs pixels and a saturation above 0: {mask.sum()} and {saturation} given")
        outside &= ~mask
        scores = np.sort(anomaly_map[mask])[::-1]
        enough = min(saturation, scores.size)
        scores = scores[: int(np.ceil(enough))]
        covered.append(scores)
        weights.append(np.diff(np.minimum(np.arange(1, scores.size + 1) / enough, 1), prepend=0))
    return Split(anomaly_map[outside], np.concatenate(covered), np.concatenate(weights))


def make_curve(splits: Sequence[Split]) -> Curve:
    """Return the curve of images: sPRO, times the number of regions, against false positives. Raises ValueError."""
    normal, covered, weights = (np.concatenate(parts) for parts in zip(*splits, strict=True))
    return rank_curve(normal, covered, weights)
