"""A picture's tiles, judged one by one and put together without seams."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdad.functional import at_least_float32
from kdad.geometry import Tiles


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
