"""Reading masks: which pixels are anomalous, and refusals of what does not plainly say so.

Geometry: a mask is resized as its image is, as 0 and 255 in 8 bits, and kept where it exceeds 127: a pixel that is half
covered stays anomalous.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter
from torch import Tensor

from kdad.data.images import convert_to_rgb, decode_image, has_transparency, list_images, read_size
from kdad.data.intensity import AUTO, Rule
from kdad.errors import UserError
from kdad.geometry import ImageSize, as_pair

MASK_KINDS = ("auto", "binary", "grey", "labels")
KEPT = 0.25  # of what is marked, more must be above half: of two blurred masks of MTD 1/8 and 3/16 are
# Of what is marked, so much may lie level between black and white; in classes that were smoothed more does.
LEVEL = 0.05


class MaskFacts(NamedTuple):
    """What is odd about a mask."""

    empty: bool  # no anomalous pixel in the file
    vanished: bool  # some in the file, none after resizing
    nonbinary: bool  # more than background and one foreground value
    large: bool = False  # most of the image is anomalous
    outside: bool = False  # some in the file, none in the region of interest


ODD_MASKS = {  # by the facts' names, what to say of such masks; {size} is that of a detector's images
    "vanished": "have a region so small that nothing is left of it at {size} px",
    "nonbinary": "have grey levels; pixels above half of the range count as anomalous",
    "large": "call more than half of the image anomalous: are they the wrong way round? What is 0 counts as normal",
    "outside": "have no anomalous pixel in the region of interest, dataset.roi; their images stay anomalous",
    "empty": "have no anomalous pixel; their images stay anomalous, without a region",
}


def decode_mask(path: Path, kind: str = "auto") -> np.ndarray:
    """Decode a mask, or the masks in a folder as one. Returns (H,W) as stored, upright.

    Of colours the largest channel counts, of a palette with `kind` "labels" the number of the entry, in a folder the
    largest value of the masks in it. Raises `UserError` where a file cannot be read, a folder's masks are none or of
    different sizes, or the background of a coloured mask is not black.
    """
    if path.is_dir():
        parts = {part: decode_mask(part, kind) for part in list_images(path)}
        if len({values.shape for values in parts.values()}) != 1:
            sizes = ", ".join(f"{part.name} {v.shape[1]} x {v.shape[0]}" for part, v in parts.items()) or "none"
            raise UserError(f"masks in {path} should be one or more of the same size; found {sizes}")
        return np.maximum.reduce(list(parts.values()))
    mask = decode_image(path)
    if mask.mode == "P" and kind == "labels":
        return np.array(mask)
    if has_transparency(mask):
        raise UserError(
            f"mask {path} has transparent pixels: whether these or the others are anomalous is not said. Save it "
            "without transparency, 0 where normal"
        )
    if mask.mode in ("1", "L"):
        return np.array(mask.convert("L"))
    if mask.mode == "I" or mask.mode.startswith("I;16"):
        return np.array(mask)  # as stored: scaled to 8 bits, a mask of 0 and 1 would be empty
    colours = np.array(convert_to_rgb(mask, path))
    if (colours != colours[..., :1]).any():
        _check_background(colours, path)
    return colours.max(axis=2)


def _check_background(colours: np.ndarray, path: Path) -> None:
    """Raise `UserError` where most of a coloured mask's border is not black: all of it would count as anomalous."""
    border = np.concatenate([colours[0], colours[-1], colours[:, 0], colours[:, -1]])
    found, counts = np.unique(border, axis=0, return_counts=True)
    if found[counts.argmax()].any():
        raise UserError(
            f"mask {path} is coloured, and most of its border is {tuple(found[counts.argmax()].tolist())}, not black: "
            "what is normal in it is not said. Save it in grey, 0 where normal; of a palette whose first entry is the "
            "background, dataset.mask_kind=labels takes the others"
        )


def find_anomalous_pixels(
    values: np.ndarray, kind: str, path: Path, image_path: Path, rule: Rule = AUTO
) -> tuple[np.ndarray, bool]:
    """Find which pixels a mask with these (H,W) values calls anomalous.

    Returns bool (H,W), and whether the mask has grey levels, which with "labels" it never has. `kind` is one of
    MASK_KINDS: all but "labels" take v of a two-valued mask {0, v} as anomalous. Where there are further values,
    "binary" refuses, "grey" cuts at half of the range, and "auto" does so in a mask with soft edges and refuses others;
    "labels" takes whatever is not 0.
    Raises `UserError` for such a refusal, and where the mask's size is not that of its image.
    """
    expected, size = read_size(image_path, rule), values.shape[::-1]
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
    if nonbinary and kind == "auto" and not has_soft_edges(values, 2 * half + 1):
        found = np.unique(values)
        raise UserError(
            f"mask {path} has the values {found[:5].tolist()}{' ...' if len(found) > 5 else ''}, which are neither two "
            "nor those of soft edges. If they are classes of defects, dataset.mask_kind=labels takes all that is not "
            f"0; dataset.mask_kind=grey calls anomalous what is above {half}"
        )
    return values > (half if nonbinary else 0), nonbinary


def has_soft_edges(values: np.ndarray, full: int) -> bool:
    """Return whether a mask's grey levels come from smoothed or compressed edges, not from classes or faint values.

    A grey pixel of a soft edge lies on a slope, between a darker and a brighter neighbour. One of a class lies in a
    patch of one value with nothing darker, or nothing brighter, around it. At most half may be of the second kind.
    `full` is the largest value that there can be.
    """
    marked = values > full // 10
    if (values > full // 2).sum() <= KEPT * marked.sum():
        return False  # cut at half, defects would be lost, wherever the values come from
    if (is_level(values, full // 32) & marked & (values < 3 * full // 4)).sum() > LEVEL * marked.sum():
        return False
    blackish, counts = np.unique(values[values <= full // 32], return_counts=True)
    background = blackish[counts.argmax()] if len(blackish) else 0  # that of a JPEG may be 1 or 2
    grey = (values != background) & (values < full)
    dark, bright = grey & (values <= full // 16), grey & (values >= full - full // 16)
    if bright.any() and len(np.unique(values[dark])) > 1:  # few numbers of classes are at both ends
        grey &= ~dark & ~bright  # what rings beside the edges in JPEG and Lanczos: it has patches, too
    patches = find_patches(values, grey)
    return bool(patches.sum() <= len(patches) / 2)


def is_level(values: np.ndarray, step: int) -> np.ndarray:
    """Return, of each pixel of a mask, whether it and its 8 neighbours differ by no more than a step."""
    return maximum_filter(values, 3) - minimum_filter(values, 3) <= step


def find_patches(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Find which of the chosen pixels of a mask are not on a slope and have a neighbour, of 8, with the same value.

    Returns bool (N,), of the chosen pixels, row by row. One without such a neighbour is noise, or the top of a small
    blurred region.
    """
    rows, columns = np.nonzero(chosen)
    own, padded = values[chosen], np.pad(values, 1, "reflect")
    around = np.stack([padded[rows + y, columns + x] for y in range(3) for x in range(3) if (y, x) != (1, 1)])
    slope = (around < own).any(axis=0) & (around > own).any(axis=0)
    return ~slope & (around == own).any(axis=0)


def resize_mask(anomalous: np.ndarray, size: ImageSize, nonbinary: bool) -> tuple[Tensor, MaskFacts]:
    """Resize a mask bool (H,W). Returns bool (H,W) of that size, and what is odd about the mask."""
    whole = Image.fromarray(anomalous.astype(np.uint8) * 255)
    resized = whole.resize(as_pair(size)[::-1], Image.Resampling.BILINEAR)
    kept = torch.from_numpy(np.array(resized) > 127)
    vanished = bool(anomalous.any()) and not kept.any().item()
    return kept, MaskFacts(not anomalous.any(), vanished, bool(nonbinary), bool(anomalous.mean() > 0.5))
