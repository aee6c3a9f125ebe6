"""Regions of defects, each a mask of its own, and how much of each is enough: what sPRO needs of MVTec LOCO.

Geometry: a region is resized as masks are. A saturation threshold in pixels is that of the picture as it was taken,
and is scaled as the picture's area is; a relative one is a share of the region's own area after resizing.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdad.data.images import list_images
from kdad.data.masks import decode_mask, resize_mask
from kdad.errors import UserError
from kdad.geometry import ImageSize


class Region(NamedTuple):
    """One annotated region of an image."""

    mask: NDArray[np.bool_]  # (H, W), with at least one pixel
    saturation: float  # so many of its pixels are enough


class Saturation(NamedTuple):
    """How much of a region of one kind of defect is enough."""

    threshold: float
    relative: bool  # a share of the region's area; else pixels of the picture as it was taken


def read_saturations(file: Path) -> dict[int, Saturation]:
    """Read a category's table of saturation thresholds. Returns them by the value of a defect's pixels in masks.

    Raises `UserError` where it cannot be read, naming the entry.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the saturation thresholds {file}: {error}. dataset.saturation=null") from error
    found = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        try:
            found[int(entry["pixel_value"])] = Saturation(
                float(entry["saturation_threshold"]), bool(entry["relative_saturation"])
            )
            if not found[int(entry["pixel_value"])].threshold > 0:
                raise ValueError("the threshold is not above 0")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{file}, entry {number}: {error!r}; expected pixel_value, saturation_threshold above 0 and "
                "relative_saturation. dataset.saturation=null does without sPRO"
            ) from error
    return found


def read_regions(folder: Path, saturations: Mapping[int, Saturation], size: ImageSize) -> list[Region]:
    """Read the regions of an image, one from each mask in a folder, at `size`; those that vanish there are left out.

    Raises `UserError` where a mask cannot be read, or its value stands in no entry of `saturations`.
    """
    regions = []
    for file in list_images(folder):
        values = decode_mask(file, "labels")
        if int(values.max()) not in saturations and values.any():
            raise UserError(
                f"mask {file} has the value {values.max()}, for which there is no saturation threshold; there are some "
                f"for {', '.join(map(str, sorted(saturations))) or 'none'}. dataset.saturation=null does without sPRO"
            )
        mask = resize_mask(values > 0, size, False)[0].numpy()
        if mask.any():
            enough = saturations[int(values.max())]
            area = mask.sum() if enough.relative else mask.size / values.size
            regions.append(Region(mask, float(enough.threshold * area)))
    return regions
