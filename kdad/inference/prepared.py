"""A picture as a network takes it: resized, or cut into tiles, and one colour outside the region of interest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kdad.data.images import resize_image
from kdad.data.roi import Roi, blank, resize_roi
from kdad.data.tiles import cut_tiles
from kdad.geometry import ImageSize, Tiles, Tiling

UNNAMED = Path("that was given")


class Geometry(NamedTuple):
    """How a detector's pictures become what its network takes, as in training."""

    size: ImageSize
    tiling: Tiling | None
    roi: Roi | None


class Prepared(NamedTuple):
    """One picture that is ready to be judged."""

    content: "Tensor | Tiles"  # uint8 (3,h,w), or the picture's tiles
    inside: NDArray[np.bool_] | None  # the region of interest at the picture's own size (H,W)
    roi: Tensor | None  # and at the network's (1,h,w)


def prepare(image: Image.Image, geometry: Geometry, at_once: int, path: Path | None = None) -> Prepared:
    """Prepare an upright RGB image; `path` names it. Raises `UserError` where its region of interest does not fit."""
    inside = geometry.roi.find(path or UNNAMED, image.size) if geometry.roi else None
    image = blank(image, inside)
    if geometry.tiling:
        return Prepared(cut_tiles(image, geometry.tiling, geometry.size, inside, at_once), inside, None)
    roi = None if inside is None else resize_roi(inside, geometry.size)
    return Prepared(resize_image(image, geometry.size), inside, roi)


def make_batches(pictures: Sequence[Prepared]) -> list[dict[str, Any]]:
    """Put prepared pictures together as a network's batches: all in one, or each picture in tiles by itself."""
    if not pictures:
        return []
    if isinstance(pictures[0].content, Tiles):
        regions = [{} if p.inside is None else {"roi": torch.from_numpy(p.inside)[None, None]} for p in pictures]
        return [{"tiles": p.content, **region} for p, region in zip(pictures, regions, strict=True)]
    batch: dict[str, Any] = {"image": torch.stack([p.content for p in pictures])}  # type: ignore[misc]
    if pictures[0].roi is not None:
        batch["roi"] = torch.stack([p.roi for p in pictures])  # type: ignore[misc]
    return [batch]
