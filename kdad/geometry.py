"""Sizes of images, a number is a square's, [height, width] a rectangle's; and how a picture is cut into tiles."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kdad.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

ImageSize = int | Sequence[int]
"""A size in pixels: a number is a square's, otherwise it is (height, width)."""


def as_pair(size: ImageSize) -> tuple[int, int]:
    """Return a size as (height, width)."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def simplify(size: ImageSize) -> int | tuple[int, int]:
    """Return a square's size as one number, a rectangle's as (height, width)."""
    height, width = as_pair(size)
    return height if height == width else (height, width)


def name_size(size: ImageSize) -> str:
    """Return a size as text: 256, or height x width."""
    height, width = as_pair(size)
    return str(height) if height == width else f"{height} x {width}"


def check_divisible(size: ImageSize, stride: int, of: str) -> None:
    """Raise `UserError`, with the nearest sizes that do, where a stride does not divide both sides; `of` names it."""
    sides = as_pair(size)
    if not any(side % stride for side in sides):
        return
    smaller, larger = ([round_to(side / stride) * stride for side in sides] for round_to in (math.floor, math.ceil))
    raise UserError(
        f"image_size={_write(size)}: must be a multiple of {stride}, the stride of {of}, such as "
        + " or ".join(_write(pair) for pair in (smaller, larger) if min(pair))
    )


def _write(size: ImageSize) -> str:
    """Return a size as it stands on a command line."""
    found = simplify(size)
    return str(found) if isinstance(found, int) else f"[{found[0]},{found[1]}]"


class Tiling(NamedTuple):
    """How pictures are cut: the tiles' `size`, and the `overlap` of neighbours at least; (height, width) in pixels."""

    size: tuple[int, int]
    overlap: tuple[int, int]


class Tiles(NamedTuple):
    """One picture cut into T tiles, each resized to a detector's size (h, w).

    `images` are the tiles, uint8 (T, 3, h, w), and `starts` their upper left corners (top, left) in the picture, whose
    own size is `picture` (height, width). `tiling` says how it was cut. `roi`, bool (T, 1, h, w), says which pixels of
    a tile are of interest; None: all. So many tiles are computed together as `at_once` says.
    """

    images: "Tensor"
    starts: list[tuple[int, int]]
    tiling: Tiling
    picture: tuple[int, int]
    roi: "Tensor | None"
    at_once: int


def read_tiling(size: Any, overlap: Any, image_size: ImageSize) -> Tiling | None:
    """Return how the configuration's `tiling.size` and `tiling.overlap` cut pictures; None for size null.

    `auto` is a detector's own size, so that nothing is resized, and an overlap of a quarter of a tile. Raises
    `UserError` for what is neither pixels nor auto, and for an overlap that leaves no way from tile to tile.
    """
    if size is None:
        return None
    tile = as_pair(image_size) if size == "auto" else _read_pixels("tiling.size", size, 1)
    shared = (tile[0] // 4, tile[1] // 4) if overlap == "auto" else _read_pixels("tiling.overlap", overlap, 0)
    if any(share > side // 2 for share, side in zip(shared, tile, strict=True)):
        raise UserError(
            f"tiling.overlap={_write(shared)}: neighbours of {name_size(tile)} pixels share half of that at most. Give "
            "fewer pixels, or auto"
        )
    return Tiling(tile, shared)


def _read_pixels(key: str, value: Any, least: int) -> tuple[int, int]:
    sides = [value, value] if isinstance(value, int) else list(value) if isinstance(value, Sequence) else []
    if len(sides) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= least for n in sides):
        raise UserError(f"{key}={value}: give pixels of the picture, at least {least}, or [height,width], or auto")
    return sides[0], sides[1]


def place_tiles(length: int, side: int, overlap: int) -> list[int]:
    """Return where tiles start along a picture's side, evenly spread from end to end; one where it is no longer."""
    if length <= side:
        return [0]
    count = math.ceil((length - overlap) / (side - overlap))
    return [round(k * (length - side) / (count - 1)) for k in range(count)]
