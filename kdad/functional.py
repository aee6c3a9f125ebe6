"""Tensor maths that the papers share: distances per position, fusion of levels, blur. Pure and unreduced."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - cosine similarity along channels: (B, C, h, w) twice -> (B, h, w) in [0, 2], at least float32.

    A zero vector is at distance 1 from everything.
    """
    return 1 - F.cosine_similarity(at_least_float32(a), at_least_float32(b), dim=1)


def flattened_cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - cosine similarity of whole images, each one vector: (B, C, h, w) twice -> (B,) in [0, 2]."""
    return 1 - F.cosine_similarity(at_least_float32(a).flatten(1), at_least_float32(b).flatten(1), dim=1)


def at_least_float32(x: Tensor) -> Tensor:
    """Turn half-precision features into float32: in 8 bits differences of nearly equal vectors would be lost.

    Returns others as they are.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def upsample(distance_map: Tensor, size: int, align_corners: bool) -> Tensor:
    """Enlarge one level's map by bilinear interpolation: (B, h, w) -> (B, size, size)."""
    return F.interpolate(distance_map[:, None], size=(size, size), mode="bilinear", align_corners=align_corners)[:, 0]


def fuse_sum(distance_maps: Sequence[Tensor], size: int, align_corners: bool, sigma: float = 0.0) -> Tensor:
    """Add up the levels' upsampled maps and blur the sum: list of (B, h, w) -> (B, size, size).

    The same as `upsample`, then `gaussian_blur`. Both are linear and separable, so that each level takes one small
    matrix along each axis, and no full-size map is made but the result.
    """
    first = distance_maps[0]
    with torch.autocast(first.device.type, enabled=False):  # which would round the scores to half precision
        rows = [_resize_matrix(m.shape[-2], size, align_corners, sigma).to(first) for m in distance_maps]
        columns = [_resize_matrix(m.shape[-1], size, align_corners, sigma).to(first) for m in distance_maps]
        widened = [m @ c.T for m, c in zip(distance_maps, columns, strict=True)]  # (B, h, size) each
        return torch.cat(rows, dim=1) @ torch.cat(widened, dim=1)


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Blur maps (..., H, W) by a Gaussian of `sigma` pixels, as `scipy.ndimage.gaussian_filter` does.

    It is cut at 4 sigma, and the maps are mirrored at their edges. A Gaussian is separable, so that it is one small
    matrix product along each axis. `sigma` 0 leaves the maps.
    """
    if sigma == 0:
        return maps
    rows, columns = (_blur_matrix(n, sigma).to(maps) for n in maps.shape[-2:])
    with torch.autocast(maps.device.type, enabled=False):  # which would round the scores to half precision
        return rows @ maps @ columns.T


@lru_cache(maxsize=16)
def _blur_matrix(n: int, sigma: float) -> Tensor:
    """Return (n, n): row i holds the weights of the blurred value i."""
    return torch.from_numpy(gaussian_filter1d(np.eye(n), sigma, axis=0))


@lru_cache(maxsize=64)
def _resize_matrix(n: int, size: int, align_corners: bool, sigma: float) -> Tensor:
    """Return (size, n): `upsample` along one axis, then the blur."""
    units = torch.eye(n, dtype=torch.float64)[None]
    resized = F.interpolate(units, size=size, mode="linear", align_corners=align_corners)[0].T
    return resized if sigma == 0 else _blur_matrix(size, sigma) @ resized
