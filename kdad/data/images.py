"""Reading images: one geometry for all data sets, and refusals that name the file.

Geometry: the image is resized to a square or a rectangle, bilinear with antialiasing, no crop; of masks see `masks.py`.
"""

import os
import struct
import warnings
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from kdad.data.intensity import AUTO, Rule, map_values, refuse_unless_finite
from kdad.errors import UserError
from kdad.geometry import ImageSize, as_pair

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `limit_size` says what is too large
_limit_key = "dataset.max_megapixels"
# Pillow looks at the content, not at the name, and opens some 40 formats: for EPS it would start Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "PPM", "GIF")
SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".pbm", ".pgm", ".ppm", ".pnm"),
}


def limit_size(megapixels: float | None, key: str = "dataset.max_megapixels") -> None:
    """Refuse to decode images of more than so many million pixels, in the whole process; null: no limit.

    `key` is the configuration's, for messages. Raises `UserError` where that is no positive number.
    """
    global _limit_key
    if megapixels is not None and not (isinstance(megapixels, int | float) and megapixels > 0):
        raise UserError(f"{key}={megapixels}: give a number of million pixels above 0, or null")
    _limit_key = key
    # Pillow refuses twice as many pixels as it warns of.
    Image.MAX_IMAGE_PIXELS = None if megapixels is None else round(megapixels * 1e6 / 2)


def refuse_file(path: Path, error: Exception) -> UserError:
    """Return the error of an image file that cannot be read."""
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        return UserError(
            f"image {path} has more than {limit:g} million pixels, for which a small file could ask for all memory. If "
            f"it is yours, {_limit_key}=<number> or null raises the limit"
        )
    reason = "not of a known format" if isinstance(error, UnidentifiedImageError) else error  # which tells no more
    return UserError(f"cannot read image {path}: {reason}")


def list_images(folder: Path) -> list[Path]:
    """List the images directly in `folder`, sorted; none where it does not exist.

    Hidden files are left out. Suffixes count in upper and lower case.
    """
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    return sorted(path for path in files if path.is_file())


def list_image_folders(folder: Path) -> list[Path]:
    """List the folders below `folder`, at any depth, that have images directly in them, hidden ones left out."""
    found = []
    for place, subfolders, _ in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
        found += [Path(place, name) for name in subfolders if list_images(Path(place, name))]
    return found


def read_picture(path: Path, rule: Rule = AUTO) -> Image.Image:
    """Decode an image at its own size. Returns it as RGB. Raises `UserError` where it cannot be read.

    Grey is repeated; values become 8 bits by the rule; EXIF orientation is applied. Transparency
    is dropped, keeping the colour stored under it: any background put there would be an invention.
    """
    return convert_to_rgb(decode_image(path, rule=rule), path, rule)


def read_image(path: Path, size: ImageSize, rule: Rule = AUTO) -> Tensor:
    """Decode an image, see `read_picture`, and resize it. Returns uint8 (3,H,W). Raises `UserError`."""
    return resize_image(read_picture(path, rule), size)


def resize_image(image: Image.Image, size: ImageSize) -> Tensor:
    """Resize an RGB image. Returns uint8 (3,H,W) of that size."""
    return torch.from_numpy(np.array(shrink_image(image, size))).permute(2, 0, 1)


def shrink_image(image: Image.Image, size: ImageSize) -> Image.Image:
    """Resize an image bilinearly, with antialiasing. Returns it at that size."""
    return image.resize(as_pair(size)[::-1], Image.Resampling.BILINEAR)


class Look(NamedTuple):
    """What is known of an image, without decoding it where its format allows that."""

    size: tuple[int, int]  # width, height
    mode: str  # Pillow's


def look(path: Path, rule: Rule = AUTO) -> Look:
    """Find the size and the mode of an image. Raises `UserError` where the file is damaged, or not for the rule.

    A PNG is checked by the checksums it carries, a JPEG decoded at an eighth of its size, others whole.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            turn_to_page(image, path, rule)
            mode = image.mode
            if image.format == "PNG":
                image.verify()
            else:
                image.draft("L", (1, 1))
                image.load()
                if is_deep(mode):
                    find_values(image, path, rule)
    except UserError:
        raise
    except Exception as error:
        raise refuse_file(path, error) from error
    return Look(read_size(path, rule), mode)


def turn_to_page(image: Image.Image, path: Path, rule: Rule) -> None:
    """Turn an open image file to the rule's page. Raises `UserError` where there is none, or its colours are deep.

    Of colours Pillow gives the upper eight bits of 16, which are not the values that a rule is about.
    """
    if rule.page:
        pages = getattr(image, "n_frames", 1)
        if rule.page >= pages:
            raise UserError(
                f"dataset.page={rule.page}: image {path} has {pages} page{'s' * (pages > 1)}, and the first is 0"
            )
        image.seek(rule.page)
    if rule.intensity != "auto" and not is_deep(image.mode) and ";16" in str(getattr(image, "tile", "")):
        raise UserError(
            f"image {path} has colours of 16 bits, of which the upper 8 are read: dataset.intensity={rule.intensity} "
            "is for grey. Save it as grey, or with 8 bits, or give auto"
        )


def is_deep(mode: str) -> bool:
    """Return whether images of this mode of Pillow's have one channel of more than 8 bits."""
    return mode in ("I", "F") or mode.startswith("I;16")


def find_values(image: Image.Image, path: Path, rule: Rule) -> NDArray[Any]:
    """Return an image's values as stored: (H,W) of deep grey, else uint8 (H,W,3).

    Raises `UserError` where they cannot be mapped to 8 bits: NaN, and with `auto` floating-point and 32-bit values.
    """
    if not is_deep(image.mode):
        return np.array(_flatten(image))
    values = refuse_unless_finite(np.array(image), path)
    if rule.intensity == "auto":
        way_out = (
            "save it with 8 or 16 bits, or train with what is black and white said: dataset.intensity=window:<lo>,<hi>"
        )
        if image.mode == "F":
            raise UserError(
                f"image {path} holds floating-point values of unknown range ({values.min():.4g} to "
                f"{values.max():.4g}): {way_out}"
            )
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f"image {path} holds 32-bit values: {way_out}")
    return values


def read_values(path: Path, rule: Rule) -> NDArray[Any]:
    """Read an image's values as stored, see `find_values`. Raises `UserError` where they cannot be read."""
    return find_values(decode_image(path, rule=rule), path, rule)


def has_transparency(image: Image.Image) -> bool:
    """Return whether an image has pixels that are not opaque, or might have them, if it has a palette."""
    if "transparency" in image.info and image.mode not in ("RGBA", "LA", "PA"):
        return True
    if image.mode not in ("RGBA", "LA", "PA"):
        return False
    return bool((np.array(image.getchannel("A")) < 255).any())


def decode_image(path: Path, file: IO[bytes] | None = None, rule: Rule = AUTO) -> Image.Image:
    """Decode the rule's page of an image file, upright; of an open `file`, `path` is but the name.

    Raises `UserError` where it cannot be read.
    """
    try:
        with Image.open(file or path, formats=FORMATS) as image:
            turn_to_page(image, path, rule)
            image.load()
            return ImageOps.exif_transpose(image)
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise refuse_file(path, error) from error


def read_size(path: Path, rule: Rule = AUTO) -> tuple[int, int]:
    """Read the width and height of an image's page once it is upright, from the header alone."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            turn_to_page(image, path, rule)
            if image.format == "PNG" and not _tells_orientation(path):
                return image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 lie on their side
            if turned and image.format == "JPEG":
                return image.size[::-1]
            if not turned:
                return image.size
        return decode_image(path, rule=rule).size  # by format and version, Pillow's size is upright already or not
    except UserError:
        raise
    except Exception as error:
        raise refuse_file(path, error) from error


def _tells_orientation(path: Path) -> bool:
    """Return whether a PNG has a chunk that may hold an orientation.

    Pillow would decode all of the image to find out, since that chunk may be the last.
    """
    with path.open("rb") as file:
        file.seek(8)  # the signature
        while len(header := file.read(8)) == 8:
            length, chunk = struct.unpack(">I4s", header)
            if chunk in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(length + 4, os.SEEK_CUR)  # content and checksum
    return False


def convert_to_rgb(image: Image.Image, path: Path, rule: Rule = AUTO) -> Image.Image:
    """Convert an image to RGB with eight bits by a rule; `path` names it. Raises `UserError`, see `find_values`."""
    if rule.window:
        return Image.fromarray(map_values(find_values(image, path, rule), rule)).convert("RGB")
    if is_deep(image.mode):
        # Pillow clips 16-bit grey on conversion; some of its versions open it as 32-bit "I".
        image = Image.fromarray(np.rint(find_values(image, path, rule) / 257).astype(np.uint8))
    return _flatten(image)


def _flatten(image: Image.Image) -> Image.Image:
    """Return an image of eight bits as RGB, without its transparency."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about transparent entries
    return image.convert("RGB")
