"""Pictures of any kind as a detector wants them: upright, RGB, eight bits; read exactly as a data set's are."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from kdad.data.images import convert_to_rgb, decode_image
from kdad.data.intensity import AUTO, Rule, map_values, refuse_unless_finite
from kdad.errors import UserError

Picture = str | os.PathLike | Image.Image | NDArray[Any] | Tensor
"""One picture as it may be given to a detector: a path, a PIL image, an array or a tensor, see `open_picture`."""


def is_single(source: Any) -> bool:
    """Return whether this is one picture, not several."""
    if isinstance(source, np.ndarray | Tensor):
        return source.ndim < 4
    return isinstance(source, str | os.PathLike | Image.Image)


def iterate(source: Any) -> Iterator[Picture]:
    """Yield the pictures of an iterable, or of an array or tensor with one dimension more than a picture."""
    if not isinstance(source, Iterable):
        raise UserError(f"found {type(source).__name__}: give a path, a PIL image, an array, a tensor, or several")
    yield from source


def open_picture(source: Picture, rule: Rule = AUTO) -> Image.Image:
    """Return a picture as an upright RGB image at its own size, its values in 8 bits by a detector's rule.

    Takes a path; a PIL image; an array (H, W) or (H, W, 1 | 3 | 4), uint8, uint16 or float in [0, 1]; or a tensor
    (H, W) or (1 | 3, H, W) of these types. 16 bits are scaled to 8, transparency is dropped, as in a data set's files;
    with a rule's window any integers and finite floats become 8 bits by that. Raises `UserError` for anything else.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            raise UserError(f"{path} is a folder: give its pictures, or the folder to kdad predict input=")
        return convert_to_rgb(decode_image(path, rule=rule), path, rule)
    if isinstance(source, Image.Image):
        return convert_to_rgb(ImageOps.exif_transpose(source), Path("given as a PIL image"), rule)
    if isinstance(source, Tensor):
        values = source.detach().cpu()
        values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
        array = values.permute(1, 2, 0).numpy() if values.ndim == 3 else values.numpy()
    elif isinstance(source, np.ndarray):
        array = source
    else:
        raise UserError(f"found {type(source).__name__}: give a path, a PIL image, an array or a tensor")
    return _from_array(array, rule)


def open_upload(file: IO[bytes], name: str, rule: Rule = AUTO) -> Image.Image:
    """Return the picture in an open file as an upright RGB image; `name` is what its sender calls it.

    Raises `UserError`, with the last part of that name, where it is none.
    """
    path = Path(PureWindowsPath(name).name or "image")  # which knows both kinds of slashes
    return convert_to_rgb(decode_image(path, file, rule), path, rule)


def _from_array(array: NDArray[Any], rule: Rule) -> Image.Image:
    shape = array.shape
    array = array.astype(array.dtype.newbyteorder("="))  # readers of TIFF and FITS give others, too
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        raise UserError(
            f"a picture of shape {shape}: give an array (H, W) or (H, W, 3), or a tensor (H, W) or (3, H, W)"
        )
    if rule.window and array.dtype.kind in "uif":
        array = map_values(refuse_unless_finite(array, "given as an array"), rule)
    elif array.dtype == np.uint16:
        array = np.rint(array / 257).astype(np.uint8)
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise UserError(f"a picture of floats from {low:.4g} to {high:.4g}: scale them to [0, 1], or give uint8")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise UserError(f"a picture of {array.dtype}: give uint8, uint16, or floats in [0, 1]")
    if array.ndim == 3:
        array = array[..., 0] if shape[2] == 1 else array[..., :3]
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")
