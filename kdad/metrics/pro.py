"""PRO, the per-region overlap, as the authors of MVTec AD define it.

Bergmann et al., "Uninformed Students: Student-Teacher Anomaly Detection with Discriminative Latent Embeddings", CVPR
2020, Sec. 4; Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129, 2021.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from kdad.metrics.ranking import area, rank_curve

LIMIT = 0.3  # the authors' highest false-positive rate

# Neighbours in the same image, diagonals included: (image, row, column).
_EIGHT_CONNECTED = np.zeros((3, 3, 3), dtype=bool)
_EIGHT_CONNECTED[1] = True


def find_regions(masks: ArrayLike) -> tuple[NDArray[np.float64], int]:
    """Find the 8-connected regions of each of the masks (B, H, W) bool. Returns weights, and the number of regions.

    The weights (P,) belong to `maps[masks]`, the anomalous pixels in row-major order: 1 / (size of the pixel's region),
    so that the sum of the weights of a set of pixels is the sum over regions of the fraction covered.
    """
    masks = np.asarray(masks, dtype=bool)
    labels, number = ndimage.label(masks, structure=_EIGHT_CONNECTED)
    of_pixel = labels[masks]
    return 1.0 / np.bincount(of_pixel)[of_pixel], number


def split_pixels(
    anomaly_maps: NDArray, masks: NDArray[np.bool_], inside: NDArray[np.bool_] | None = None
) -> tuple[NDArray, NDArray, NDArray[np.float64]]:
    """Split maps (B, H, W) into normal and anomalous pixels; with `inside`, normal ones outside it are left out.

    Returns the scores of both kinds, and the weights of the anomalous ones, as `find_regions` has them.
    """
    normal = ~masks if inside is None else inside & ~masks
    return anomaly_maps[normal], anomaly_maps[masks], find_regions(masks)[0]


def pro(anomaly_maps: ArrayLike, masks: ArrayLike, limit: float = LIMIT) -> float:
    """Return the area under PRO against false-positive rate, up to `limit` and divided by it: in [0, 1].

    Maps and masks are (B, H, W). PRO is the mean over the regions of the *whole* test set of the fraction covered at a
    threshold; the rate is over all normal pixels of all images; every distinct score is a threshold. Give all images at
    once: PRO of batches cannot be averaged. Raises ValueError if there is no normal or no anomalous pixel, or a score
    is not finite.

    Examples:
        >>> mask = np.array([[[0, 0, 0, 1], [0, 0, 0, 1]]])
        >>> pro(mask * 0.9, mask)  # all of the region, before any normal pixel
        1.0
    """
    anomaly_maps, masks = np.asarray(anomaly_maps), np.asarray(masks, dtype=bool)
    if anomaly_maps.ndim != 3 or anomaly_maps.shape != masks.shape:
        raise ValueError(f"maps and masks must both be (B, H, W): {anomaly_maps.shape} and {masks.shape} given")
    return area(rank_curve(*split_pixels(anomaly_maps, masks)), limit)
