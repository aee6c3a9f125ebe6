"""Reading images and masks: one geometry for all data sets, and refusals that name the file.

Geometry: the image is resized to a square, bilinear with antialiasing, no crop; a mask is resized
the same way, as 0 and 255 in 8 bits, and kept where it exceeds 127: a pixel that is half covered stays anomalous.
"""

import os
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kdad.errors import UserError

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `limit_size` says what is too large
SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".pbm", ".pgm", ".ppm", ".pnm"),
}
MASK_KINDS = ("auto", "binary", "grey", "labels")


class MaskFacts(NamedTuple):
    """What is odd about a mask."""

    empty: bool  # no anomalous pixel in the file
    vanished: bool  # some in the file, none after resizing
    nonbinary: bool  # more than background and one foreground value
    large: bool = False  # most of the image is anomalous


def limit_size(megapixels: float | None) -> None:
    """Refuse to decode images of more than so many million pixels, in the whole process; null: no limit.

    Raises `UserError` where that is no positive number.
    """
    if megapixels is not None and not (isinstance(megapixels, int | float) and megapixels > 0):
        raise UserError(f"dataset.max_megapixels={megapixels}: give a number of million pixels above 0, or null")
    # Pillow refuses twice as many pixels as it warns of.
    Image.MAX_IMAGE_PIXELS = None if megapixels is None else round(megapixels * 1e6 / 2)


def refuse_file(path: Path, error: Exception) -> UserError:
    """Return the error of an image file that cannot be read."""
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        return UserError(
            f"image {path} has more than {limit:g} million pixels, for which a small file could ask for all memory. If "
            "it is yours, dataset.max_megapixels=<number> or null raises the limit"
        )
    return UserError(f"cannot read image {path}: {error}")


def list_images(folder: Path) -> list[Path]:
    """List the images directly in `folder`, sorted; none where it does not exist.

    Hidden files are left out. Suffixes count in upper and lower case.
    """
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    return sorted(path for path in files if path.is_file())


def list_folders(folder: Path) -> list[Path]:
    """List the folders directly in `folder`, sorted, hidden ones left out; none where it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def list_image_folders(folder: Path) -> list[Path]:
    """List the folders below `folder`, at any depth, that have images directly in them, hidden ones left out."""
    found = []
    for place, subfolders, _ in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
        found += [Path(place, name) for name in subfolders if list_images(Path(place, name))]
    return found


def read_image(path: Path, size: int) -> Tensor:
    """Decode an image and resize it. Returns uint8 (3,size,size), RGB. Raises `UserError` where it cannot be read.

    Grey is repeated; 16-bit values are scaled to 8 bits; EXIF orientation is applied. Transparency
    is dropped, keeping the colour stored under it: any background put there would be an invention.
    """
    return resize_image(convert_to_rgb(decode_image(path), path), size)


def resize_image(image: Image.Image, size: int) -> Tensor:
    """Resize an RGB image to a square. Returns uint8 (3,size,size)."""
    return torch.from_numpy(np.array(image.resize((size, size), Image.Resampling.BILINEAR))).permute(2, 0, 1)


class Look(NamedTuple):
    """What is known of an image, without decoding it where its format allows that."""

    size: tuple[int, int]  # width, height
    mode: str  # Pillow's


def look(path: Path) -> Look:
    """Find the size and the mode of an image. Raises `UserError` where the file is damaged.

    A PNG is checked by the checksums it carries, a JPEG decoded at an eighth of its size, others whole.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
            if image.format == "PNG":
                image.verify()
            else:
                image.draft("L", (1, 1))
                image.load()
    except Exception as error:
        raise refuse_file(path, error) from error
    return Look(_read_size(path), mode)


def mask_values(path: Path) -> np.ndarray:
    """Decode a mask, or the masks in a folder as one. Returns (H,W) as stored, upright.

    In RGB the largest channel counts, in a folder the largest value of the masks in it. Raises `UserError` where a
    file cannot be read, or where a folder's masks are none or of different sizes.
    """
    if path.is_dir():
        parts = {part: mask_values(part) for part in list_images(path)}
        if len({values.shape for values in parts.values()}) != 1:
            sizes = ", ".join(f"{part.name} {v.shape[1]} x {v.shape[0]}" for part, v in parts.items()) or "none"
            raise UserError(f"masks in {path} should be one or more of the same size; found {sizes}")
        return np.maximum.reduce(list(parts.values()))
    mask = decode_image(path)
    if has_transparency(mask):
        raise UserError(
            f"mask {path} has transparent pixels: whether these or the others are anomalous is not said. Save it "
            "without transparency, 0 where normal"
        )
    if mask.mode in ("1", "L"):
        return np.array(mask.convert("L"))
    if mask.mode == "I" or mask.mode.startswith("I;16"):
        return np.array(mask)  # as stored: scaled to 8 bits, a mask of 0 and 1 would be empty
    return np.array(convert_to_rgb(mask, path)).max(axis=2)


def anomalous_pixels(values: np.ndarray, kind: str, path: Path, image_path: Path) -> tuple[np.ndarray, bool]:
    """Find which pixels a mask with these (H,W) values calls anomalous.

    Returns bool (H,W), and whether the mask has grey levels, which with "labels" it never has. `kind` is one of
    MASK_KINDS: all but "labels" take v of a two-valued mask {0, v} as anomalous. Where there are further values,
    "binary" refuses, "grey" cuts at half of the range, and "auto" does so in a mask with soft edges and refuses others;
    "labels" takes whatever is not 0.
    Raises `UserError` for such a refusal, and where the mask's size is not that of its image.
    """
    expected, size = _read_size(image_path), values.shape[::-1]
    if size != expected:
        raise UserError(
            f"mask {path} is {size[0]} x {size[1]} pixels but its image {image_path} is "
            f"{expected[0]} x {expected[1]}: they must have the same size"
        )
    top = values.max()
    nonbinary = kind != "labels" and not np.isin(values, (0, top)).all()
    if nonbinary and kind == "binary":
        found = np.unique(values)
        raise UserError(
            f"mask {path} has {len(found)} grey levels ({found[:4].tolist()} ...); masks of this data set "
            "have two, 0 and one other. Was it resized or saved as JPEG?"
        )
    half = 127 * 257 if top > 255 else 127  # of 16 or of 8 bits
    if nonbinary and kind == "auto" and not _has_soft_edges(values, 2 * half + 1):
        found = np.unique(values)
        raise UserError(
            f"mask {path} has the values {found[:5].tolist()}{' ...' if len(found) > 5 else ''}, which are neither two "
            "nor those of soft edges. If they are classes of defects, dataset.mask_kind=labels takes all that is not "
            f"0; dataset.mask_kind=grey calls anomalous what is above {half}"
        )
    return values > (half if nonbinary else 0), nonbinary


def _has_soft_edges(values: np.ndarray, full: int) -> bool:
    """Return whether a mask's grey levels come from smoothed or compressed edges, not from classes or faint values.

    It has many values, some near the `full` one, and not mostly such that are near neither 0 nor `full`.
    """
    marked = values > full // 10
    between = marked & (values < 3 * full // 4)
    several = len(np.unique(values)) > 4
    return several and bool((values >= 3 * full // 4).any()) and between.sum() <= 0.6 * marked.sum()


def resize_mask(anomalous: np.ndarray, size: int, nonbinary: bool) -> tuple[Tensor, MaskFacts]:
    """Resize a mask bool (H,W). Returns bool (size,size), and what is odd about the mask."""
    resized = Image.fromarray(anomalous.astype(np.uint8) * 255).resize((size, size), Image.Resampling.BILINEAR)
    kept = torch.from_numpy(np.array(resized) > 127)
    vanished = bool(anomalous.any()) and not kept.any().item()
    return kept, MaskFacts(not anomalous.any(), vanished, bool(nonbinary), bool(anomalous.mean() > 0.5))


def has_transparency(image: Image.Image) -> bool:
    """Return whether an image has pixels that are not opaque, or might have them, if it has a palette."""
    if "transparency" in image.info and image.mode not in ("RGBA", "LA", "PA"):
        return True
    if image.mode not in ("RGBA", "LA", "PA"):
        return False
    return bool((np.array(image.getchannel("A")) < 255).any())


def decode_image(path: Path) -> Image.Image:
    """Decode the first frame of an image file, upright. Raises `UserError` where it cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise refuse_file(path, error) from error


def _read_size(path: Path) -> tuple[int, int]:
    """Read an image's width and height once it is upright, from the header alone."""
    try:
        with Image.open(path) as image:
            if image.format == "PNG" and not _tells_orientation(path):
                return image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 lie on their side
            if turned and image.format == "JPEG":
                return image.size[::-1]
            if not turned:
                return image.size
        return decode_image(path).size  # by format and version, Pillow's size is upright already or not
    except Exception as error:
        raise refuse_file(path, error) from error


def _tells_orientation(path: Path) -> bool:
    """Tell whether a PNG has a chunk that may hold an orientation.

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


def convert_to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Convert an image to RGB with eight bits; `path` names it. Raises `UserError` for values of unknown range."""
    if image.mode == "F":
        raise UserError(f"image {path} holds floating-point values of unknown range: save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey on conversion; some of its versions open it as 32-bit "I".
        values = np.array(image)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(f"image {path} holds 32-bit values: save it with 8 or 16 bits")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about transparent entries
    return image.convert("RGB")
