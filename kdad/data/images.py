"""Reading images and masks: one geometry for all data sets, and refusals that name the file.

Geometry: the image is resized to a square, bilinear with antialiasing, no crop; a mask is resized
the same way and kept where it exceeds 0.5.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kdad.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


class MaskFacts(NamedTuple):
    empty: bool  # no anomalous pixel in the file
    vanished: bool  # some in the file, none after resizing
    nonbinary: bool  # more than background and one foreground value


def image_files(folder: Path) -> list[Path]:
    """The images directly in `folder`, sorted; hidden files are ignored, suffixes count in any case."""
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    return sorted(path for path in files if path.is_file())


def visible_folders(folder: Path) -> list[Path]:
    """Subfolders by name, hidden ones left out; none where `folder` does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_folders(folder: Path) -> list[Path]:
    """The visible folders below `folder`, at any depth, with images directly in them."""
    found = []
    for place, subfolders, _ in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
        found += [Path(place, name) for name in subfolders if image_files(Path(place, name))]
    return found


def read_image(path: Path, size: int) -> Tensor:
    """uint8 (3,size,size), RGB. Raises UserError where the file cannot be read.

    Grey is repeated; 16-bit values are scaled to 8 bits; EXIF orientation is applied. Transparency
    is dropped, keeping the colour stored under it: any background put there would be an invention.
    """
    image = _to_rgb(_decode(path), path).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def read_mask(path: Path, size: int, image_path: Path, binary: bool) -> tuple[Tensor, MaskFacts]:
    """bool (size,size). In a two-valued mask {0, v} v is anomalous; in any other, values above 127.

    Raises UserError where the file cannot be read, where its size is not that of the image it
    belongs to, or where it has other values than {0, v} although the data set's masks are `binary`.
    """
    mask = _decode(path)
    expected = _image_size(image_path)
    if mask.size != expected:
        raise UserError(
            f"mask {path} is {mask.size[0]} x {mask.size[1]} pixels but its image {image_path} is "
            f"{expected[0]} x {expected[1]}: they must have the same size"
        )
    if mask.mode == "I" or mask.mode.startswith("I;16"):
        values = np.array(mask)  # as stored: scaled to 8 bits, a mask of 0 and 1 would be empty
    else:
        values = np.array(_to_rgb(mask, path)).max(axis=2)  # (H,W); RGB masks count where any channel does
    found = np.unique(values)
    nonbinary = len(found[found > 0]) > 1
    if nonbinary and binary:
        raise UserError(
            f"mask {path} has {len(found)} grey levels ({found[:4].tolist()} ...); masks of this data set "
            "have two, 0 and one other. Was it resized or saved as JPEG?"
        )
    half = 127 * 257 if values.max() > 255 else 127  # of 16 or of 8 bits
    anomalous = values > (half if nonbinary else 0)
    resized = Image.fromarray(anomalous.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
    kept = torch.from_numpy(np.array(resized) > 0.5)
    return kept, MaskFacts(not anomalous.any(), bool(anomalous.any()) and not kept.any().item(), nonbinary)


def _decode(path: Path) -> Image.Image:
    """The first frame, upright."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise UserError(f"cannot read image {path}: {error}") from error


def _image_size(path: Path) -> tuple[int, int]:
    """Width and height once upright, from the header alone."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 lie on their side
            return image.size[::-1] if turned else image.size
    except Exception as error:
        raise UserError(f"cannot read image {path}: {error}") from error


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
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
