"""Sizes of images: a number is a square's, [height, width] a rectangle's."""

import math
from collections.abc import Sequence

from kdad.errors import UserError

ImageSize = int | Sequence[int]


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
