"""Tensor maths that the papers share: distances per position, fusion of levels, blur, tiles. Pure and unreduced."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from kdad.geometry import ImageSize, Tiles, as_pair


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - cosine similarity along channels: (B, C, h, w) twice -> (B, h, w) in [0, 2], at least float32.

    A zero vector is at distance 1 from everything.

    Examples:
        >>> a = torch.tensor([[[[1.0]], [[0.0]]]])  # one image, two channels, one position
        >>> cosine_distance(a, 3 * a).item(), cosine_distance(a, -a).item()
        (0.0, 2.0)
    """
    return 1 - F.cosine_similarity(at_least_float32(a), at_least_float32(b), dim=1)


def flattened_cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - cosine similarity of whole images, each one vector: (B, C, h, w) twice -> (B,) in [0, 2]."""
    return 1 - F.cosine_similarity(at_least_float32(a).flatten(1), at_least_float32(b).flatten(1), dim=1)


def at_least_float32(x: Tensor) -> Tensor:
    """Turn half-precision features of any shape into float32: 8 bits lose the differences of nearly equal vectors.

    Returns others as they are.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def upsample(distance_map: Tensor, size: ImageSize, align_corners: bool) -> Tensor:
    """Enlarge one level's map by bilinear interpolation: (B, h, w) -> (B, H, W) of that size.

    Examples:
        >>> upsample(torch.zeros(2, 8, 8), (64, 96), align_corners=False).shape
        torch.Size([2, 64, 96])
    """
    return F.interpolate(distance_map[:, None], size=as_pair(size), mode="bilinear", align_corners=align_corners)[:, 0]


def fuse_sum(distance_maps: Sequence[Tensor], size: ImageSize, align_corners: bool, sigma: float = 0.0) -> Tensor:
    """Add up the levels' upsampled maps and blur the sum: list of (B, h, w) -> (B, H, W) of that size.

    The same as `upsample`, then `gaussian_blur`. Both are linear and separable, so that each level takes one small
    matrix along each axis, and no full-size map is made but the result.
    """
    first, (height, width) = distance_maps[0], as_pair(size)
    with torch.autocast(first.device.type, enabled=False):  # which would round the scores to half precision
        rows = [_resize_matrix(m.shape[-2], height, align_corners, sigma).to(first) for m in distance_maps]
        columns = [_resize_matrix(m.shape[-1], width, align_corners, sigma).to(first) for m in distance_maps]
        widened = [m @ c.T for m, c in zip(distance_maps, columns, strict=True)]  # (B, h, W) each
        return torch.cat(rows, dim=1) @ torch.cat(widened, dim=1)


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Blur maps (..., H, W) by a Gaussian of `sigma` pixels, as `scipy.ndimage.gaussian_filter` does.

    It is cut at 4 sigma, and the maps are mirrored at their edges. A Gaussian is separable, so that it is one small
    matrix product along each axis. Returns maps of the same shape; `sigma` 0 leaves them.
    """
    if sigma == 0:
        return maps
    rows, columns = (_blur_matrix(n, sigma).to(maps) for n in maps.shape[-2:])
    with torch.autocast(maps.device.type, enabled=False):  # which would round the scores to half precision
        return rows @ maps @ columns.T


@lru_cache(maxsize=16)
def _blur_weights(n: int, sigma: float) -> NDArray[np.float64]:
    """Return the blur as a matrix (n, n): row i holds the weights of the blurred value i."""
    return gaussian_filter1d(np.eye(n), sigma, axis=0)


@lru_cache(maxsize=64)
def _resize_weights(n: int, size: int, align_corners: bool) -> NDArray[np.float64]:
    """Return `upsample` along one axis as a matrix (size, n): row i holds the weights of value i."""
    target = np.arange(size)
    if align_corners:
        source = (n - 1) / (size - 1) * target if size > 1 else np.zeros(1)
    else:
        source = np.maximum(n / size * (target + 0.5) - 0.5, 0)
    lower = np.minimum(np.floor(source).astype(int), n - 1)
    upper = np.minimum(lower + 1, n - 1)
    weights = np.zeros((size, n))
    np.add.at(weights, (target, lower), 1 - (source - lower))
    np.add.at(weights, (target, upper), source - lower)
    return weights


def _blur_matrix(n: int, sigma: float) -> Tensor:
    """Return `_blur_weights` as a tensor, not cached: one made while a network is traced holds no values."""
    return torch.from_numpy(_blur_weights(n, sigma))


def _resize_matrix(n: int, size: int, align_corners: bool, sigma: float) -> Tensor:
    """Return a matrix (size, n) that does `upsample` along one axis, then the blur."""
    resized = torch.from_numpy(_resize_weights(n, size, align_corners))
    return resized if sigma == 0 else _blur_matrix(size, sigma) @ resized


def detect_by_tiles(
    detect: Callable[[dict[str, Any]], tuple[Tensor, Tensor]], tiles: Tiles, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Judge a picture of H x W pixels by its tiles. Returns its map (1, 1, H, W) and its score (1,).

    `detect` judges a batch of tiles. Where tiles overlap the map is their mean, weighted so that a tile fades out
    towards the next one: the map has no seam. The score is the largest of the tiles' scores: a picture is as anomalous
    as its worst part, and no more of it is in memory than `tiles.at_once` need. Outside the region of interest it is 0.
    """
    (height, width), (tall, wide) = tiles.picture, tiles.tiling.size
    total = weights = torch.zeros(0)
    window = torch.outer(
        *(fade(side, share) for side, share in zip(tiles.tiling.size, tiles.tiling.overlap, strict=True))
    )
    scores = []
    for first in range(0, len(tiles.starts), tiles.at_once):
        chosen = slice(first, first + tiles.at_once)
        batch: dict[str, Any] = {"image": tiles.images[chosen].to(dtype).div_(255)}
        if tiles.roi is not None:
            batch["roi"] = tiles.roi[chosen]
        maps, found = detect(batch)
        scores.append(found)
        maps = at_least_float32(maps)
        if maps.shape[2:] != (tall, wide):
            maps = F.interpolate(maps, (tall, wide), mode="bilinear", align_corners=False)
        if not len(total):
            total = maps.new_zeros(max(height, tall), max(width, wide))
            weights, window = torch.zeros_like(total), window.to(maps)
        for (top, left), tile in zip(tiles.starts[chosen], maps[:, 0], strict=True):
            place = slice(top, top + tall), slice(left, left + wide)
            total[place] += window * tile
            weights[place] += window
    joined = torch.where(weights > 0, total / weights, 0)[:height, :width]
    return joined[None, None], torch.cat(scores).amax(dim=0, keepdim=True)


def fade(side: int, overlap: int) -> Tensor:
    """Return weights along a tile's side, (side,) in (0, 1]: rising over the overlap, 1, and falling again."""
    inwards = torch.minimum(torch.arange(side), torch.arange(side).flip(0)) + 0.5
    return (inwards / max(overlap, 1)).clamp(max=1.0)
