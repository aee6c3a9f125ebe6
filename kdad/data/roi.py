"""The region of interest: the part of a picture that is inspected. What lies outside it is made one colour.

So nothing outside can change what a detector sees; there its map is 0, and no pixel enters a threshold or a metric.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kdad.data.images import SUFFIXES
from kdad.data.masks import decode_mask
from kdad.errors import UserError
from kdad.geometry import ImageSize, as_pair

log = logging.getLogger(__name__)
FILL = (124, 116, 104)  # of what lies outside: ImageNet's mean colour, which a teacher takes for nearly nothing
FORMS = (
    "[left,top,right,bottom] in pixels or, up to 1, in shares of the sides; a mask file, not 0 inside; or a folder of "
    "masks called as their pictures"
)


class Roi:
    """A region of interest, as `dataset.roi` gives it: a rectangle, one mask for all pictures, or a folder of masks.

    `given` is [left, top, right, bottom], in pixels or, up to 1, in shares of the picture; or a path, below `root` or
    absolute. `key` is what messages call it. Raises `UserError` for what is none of these.
    """

    def __init__(self, given: Any, root: Path, key: str = "dataset.roi"):
        self.key, self.root = key, root
        self.rectangle: tuple[float, ...] | None = None
        self.path: Path | None = None
        self._warned = False
        if isinstance(given, str):
            self.path = root / Path(given).expanduser()
        elif isinstance(given, Sequence) and len(given) == 4 and all(_is_number(value) for value in given):
            left, top, right, bottom = given
            if not (0 <= left < right and 0 <= top < bottom):
                raise UserError(f"{key}={list(given)}: no rectangle. Give [left,top,right,bottom] with left < right")
            self.rectangle = (left, top, right, bottom)
        else:
            raise UserError(f"{key}={given}: give {FORMS}")

    @cached_property
    def mask(self) -> NDArray[np.bool_] | None:
        """The one mask (H, W) of all pictures; None for a rectangle or a folder. Raises `UserError`."""
        if self.path is None or self.path.is_dir():
            return None
        if not self.path.exists():
            raise UserError(f"{self.key}={self.path}: no such file or folder. Give {FORMS}")
        return self._read(self.path)

    def check(self) -> None:
        """Raise `UserError` where the mask or the folder cannot be read."""
        assert self.mask is None or self.mask.any()

    def find(self, path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which pixels of a picture of (width, height) are of interest, bool (H, W); one at least.

        `path` names it. Warns of the first that a rectangle reaches beyond. Raises `UserError` where it has no mask,
        one of another size, or nothing of interest.
        """
        width, height = size
        if self.rectangle:
            left, top, right, bottom = self.rectangle
            if max(self.rectangle) <= 1:
                left, right, top, bottom = (
                    round(x) for x in (left * width, right * width, top * height, bottom * height)
                )
            inside = np.zeros((height, width), dtype=bool)
            inside[int(top) : int(bottom), int(left) : int(right)] = True
            if not inside.any():
                what = "lies outside" if left >= width or top >= height else "holds no whole pixel of"
                raise UserError(
                    f"{self.key}={list(self.rectangle)} {what} the image {path} of {width} x {height} pixels"
                )
            if (right > width or bottom > height) and not self._warned:
                self._warned = True  # for all others like it
                log.warning(
                    "%s=%s reaches beyond the image %s of %d x %d pixels, and ends there; others like it are not named",
                    self.key, list(self.rectangle), path, width, height,
                )  # fmt: skip
            return inside
        file = self.path if self.mask is not None else self._find_file(path)
        inside = self.mask if self.mask is not None else self._read(file)
        if inside.shape != (height, width):
            found = f"{inside.shape[1]} x {inside.shape[0]}"
            raise UserError(
                f"{self.key}: the mask {file or 'of training'} is {found} pixels, but the image {path} "
                f"{width} x {height}: they must have the same size"
            )
        return inside

    def identify(self, path: Path) -> tuple[int | str, ...]:
        """Return what makes a picture's region another one, for caches and fingerprints."""
        if self.rectangle:
            return "roi", repr(self.rectangle)
        if self.mask is not None:
            return (
                "roi",
                hashlib.sha256(np.packbits(self.mask).tobytes() + repr(self.mask.shape).encode()).hexdigest(),
            )
        status = self._find_file(path).stat()
        return "roi", status.st_size, status.st_mtime_ns

    def _find_file(self, path: Path) -> Path:
        assert self.path is not None
        # The longest end of the picture's path that names a mask: below the data set's root, or below any other folder.
        parts = (*path.absolute().parts[1:-1], path.stem)
        for first in range(len(parts)):
            name = self.path.joinpath(*parts[first:])
            for suffix in sorted(SUFFIXES):
                if (file := name.with_name(f"{name.name}{suffix}")).is_file():
                    return file
        raise UserError(
            f"{self.key}: in {self.path} there is no mask called as the image {path}, such as "
            f"{Path(path.parent.name) / path.stem}.png"
        )

    def _read(self, path: Path | None) -> NDArray[np.bool_]:
        assert path is not None
        try:
            inside = decode_mask(path) > 0
        except UserError as error:
            raise UserError(f"{self.key}: the mask {path} cannot be read: {error}") from error
        if not inside.any():
            raise UserError(f"{self.key}: the mask {path} is 0 everywhere, so that nothing is of interest")
        return inside

    # In a checkpoint

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, which need no file but for a folder of masks."""
        if self.rectangle:
            return {"rectangle": list(self.rectangle)}
        if self.mask is None:
            return {"folder": str(self.path)}
        changes = np.flatnonzero(np.diff(self.mask.ravel(), prepend=False))  # where runs begin, the first inside
        return {"size": list(self.mask.shape), "changes": changes.tolist()}


def restore_roi(plain: Mapping[str, Any] | None, given: Any = None) -> Roi | None:
    """Return the region that a checkpoint holds; None without one. `given` is a folder of masks for other pictures.

    Raises `UserError` for a checkpoint of pictures with a mask each where no folder is `given`, and for a folder where
    it is of no use.
    """
    if given is not None and not (plain and "folder" in plain):
        raise UserError(f"roi={given}: only a detector trained with dataset.roi=<folder> takes a folder of masks")
    if not plain:
        return None
    if "rectangle" in plain:
        return Roi(plain["rectangle"], Path())
    if "folder" in plain:
        if given is None:
            raise UserError(
                "the detector was trained with a mask of the region of interest for each picture: roi=<folder>, of "
                "kdad predict, kdad calibrate and kdad.load, says where those of these pictures are"
            )
        found = Roi(str(given), Path().absolute(), "roi")
        if found.path is None or not found.path.is_dir():
            raise UserError(f"roi={given}: no such folder. Give one with masks called as the pictures")
        return found
    found = Roi(".", Path())
    found.path = None  # the mask is at hand, and its file may be gone
    ends = [*plain["changes"], int(np.prod(plain["size"]))]
    mask = np.zeros(int(np.prod(plain["size"])), dtype=bool)
    for start, stop in zip(ends[::2], ends[1::2], strict=False):
        mask[start:stop] = True
    found.__dict__["mask"] = mask.reshape(plain["size"])
    return found


def blank(image: Image.Image, inside: NDArray[np.bool_] | None) -> Image.Image:
    """Return an RGB image with one colour outside the region; the image itself where there is no region."""
    if inside is None or inside.all():
        return image
    return Image.fromarray(np.where(inside[..., None], np.asarray(image), np.array(FILL, dtype=np.uint8)))


def resize_roi(inside: NDArray[np.bool_], size: ImageSize) -> Tensor:
    """Resize a region bool (H, W), as masks are. Returns bool (1, h, w), with one pixel of interest at least."""
    whole = Image.fromarray(inside.astype(np.uint8) * 255)
    values = np.array(whole.resize(as_pair(size)[::-1], Image.Resampling.BILINEAR))
    return torch.from_numpy(values > min(127, int(values.max()) - 1))[None]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
