"""Test images as another lamp, lens, sensor or fixture would give them: by formulas, at the detector's size.

Of an image x in [0, 1] of H x W pixels, with severity s = 1, 2 or 3:

| name | formula |
|---|---|
| brightness | x + 0.1 s |
| contrast | m + (1 - 0.2 s)(x - m), m the mean of x |
| blur | Gaussian of s min(H, W) / 256 pixels; below 128 px the least severity changes next to nothing |
| noise | x + 0.03 s n, n standard normal, of each value its own |
| jpeg | written as JPEG of quality 100 - 25 s and read again |
| shift | by 0.02 s of W to the right and of H down, in whole pixels |
| rotate | by 2 s degrees clockwise, bilinearly |
| scale | larger by the factor 1 + 0.03 s, bilinearly |

Results are clipped to [0, 1] and rounded to 8 bits. The last three move masks along, and mirror the image at its edges.
"""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine

from kdad.data.loading import Split
from kdad.data.roi import FILL
from kdad.data.tiles import PictureSplit, Whole
from kdad.errors import UserError
from kdad.storage.cache import hash_content
from kdad.storage.rows import MadeRows

SEVERITIES = (1, 2, 3)
MARGIN = 0.2  # of the longer side, mirrored around an image before it is moved: more than any severity moves it


def brighten(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Return an image (3,H,W) with a constant added."""
    return image + 0.1 * severity


def flatten_contrast(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Return an image (3,H,W) drawn towards its mean."""
    mean = image.mean()
    return mean + (1 - 0.2 * severity) * (image - mean)


def blur(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Return an image (3,H,W) out of focus."""
    sigma = severity * min(image.shape[1:]) / 256
    return torch.from_numpy(gaussian_filter(image.numpy(), (0, sigma, sigma), mode="mirror"))


def add_noise(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Return an image (3,H,W) with noise drawn from `generator`."""
    return image + 0.03 * severity * torch.randn(image.shape, generator=generator)


def compress(image: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Return an image (3,H,W) after a way through JPEG."""
    file = BytesIO()
    values = image.mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    Image.fromarray(values.numpy()).save(file, "JPEG", quality=100 - 25 * severity)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255


def move(image: Tensor, severity: int, shift: float = 0.0, degrees: float = 0.0, growth: float = 0.0) -> Tensor:
    """Return an image (C,H,W) shifted by a share of its sides, turned and enlarged, all for each unit of severity."""
    height, width = image.shape[1:]
    margin = min(int(np.ceil(MARGIN * max(height, width))), height - 1, width - 1)
    padded = F.pad(image[None], [margin] * 4, mode="reflect")[0]
    offsets = [round(shift * severity * width), round(shift * severity * height)]
    moved = affine(
        padded, degrees * severity, offsets, 1 + growth * severity, [0.0], interpolation=InterpolationMode.BILINEAR
    )  # fmt: skip
    return moved[:, margin : margin + height, margin : margin + width]


VALUES: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "brightness": brighten, "contrast": flatten_contrast, "blur": blur, "noise": add_noise, "jpeg": compress
}  # fmt: skip
MOVES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "shift": partial(move, shift=0.02), "rotate": partial(move, degrees=2.0), "scale": partial(move, growth=0.03)
}  # fmt: skip
CORRUPTIONS = ("none", *VALUES, *MOVES)


def check_corruption(name: str, severity: int) -> None:
    """Raise `UserError` for a corruption or a severity that there is not."""
    if name not in CORRUPTIONS:
        raise UserError(f"corruption={name}: give one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES or isinstance(severity, bool):
        raise UserError(f"severity={severity}: give one of {', '.join(map(str, SEVERITIES))}")


def corrupt_split(split: Split | PictureSplit, name: str, severity: int, seed: int) -> None:
    """Corrupt the images and masks of a split whose pool is its own, see `corrupt`, but for what is of no interest.

    What is not in memory, whole pictures too, is corrupted as it is read.
    """
    check_corruption(name, severity)
    corrupt_one = partial(_corrupt_inside, name=name, severity=severity, seed=seed)
    if isinstance(split, PictureSplit):

        def change(whole: Whole, place: int) -> Whole:
            inside = None if whole.roi is None else torch.from_numpy(whole.roi)[None]
            image, mask = corrupt_one(whole.image.permute(1, 2, 0), whole.mask, inside, place)
            return Whole(image.permute(2, 0, 1), mask, whole.roi)

        split.change = change
        return
    pool, images, taken, masks = split.pool, split.pool.images, split.pool.as_taken, split.masks
    if isinstance(images, Tensor) and pool.roi is None and (masks is None or isinstance(masks, Tensor)):
        pool.images, split.masks = corrupt(images, masks, name, severity, seed)
        return

    # What moves may bring a defect into the region of interest.
    read = split.as_taken if name in MOVES and split.as_taken is not None else masks

    def corrupt_row(row: int, part: int) -> Any:
        mask = None if read is None or (part == 0 and name in VALUES) else read[[row]][0]
        inside = None if pool.roi is None else pool.roi.take(torch.tensor([row]))[0]
        return corrupt_one(taken[[row]][0], mask, inside, row)[part]

    key = f"{hash_content(images)} {name} {severity} {seed}"
    pool.images = MadeRows(partial(corrupt_row, part=0), images.shape, torch.uint8, key)
    if masks is not None:
        split.masks = MadeRows(partial(corrupt_row, part=1), masks.shape, torch.bool)


def _corrupt_inside(
    image: Tensor, mask: Tensor | None, inside: Tensor | None, place: int, name: str, severity: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Corrupt one image (H,W,3) with its mask (1,H,W) as `corrupt` does the one at that place.

    After it what lies outside the region of interest, `inside` (1,H,W), gets one colour.
    """
    images, moved = corrupt(image[None], None if mask is None else mask[None], name, severity, seed, place)
    image, mask = images[0], None if moved is None else moved[0]
    if inside is None:
        return image, mask
    filled = torch.where(inside.permute(1, 2, 0), image, torch.tensor(FILL, dtype=torch.uint8))
    return filled, None if mask is None else mask & inside


def corrupt(
    images: Tensor, masks: Tensor | None, name: str, severity: int, seed: int, first: int = 0
) -> tuple[Tensor, Tensor | None]:
    """Corrupt images uint8 (N,H,W,3) with their masks bool (N,1,H,W), if there are any. Returns both anew.

    What is drawn at random depends on `seed` and an image's place alone, counted from `first`. Raises `UserError`, see
    `check_corruption`.
    """
    check_corruption(name, severity)
    if name == "none":
        return images, masks
    changed, moved = torch.empty_like(images), None if masks is None else torch.empty_like(masks)
    for place in range(len(images)):
        image = images[place].permute(2, 0, 1).float() / 255
        if name in VALUES:
            found = VALUES[name](image, severity, torch.Generator().manual_seed(1_000_003 * seed + first + place))
        else:
            found = MOVES[name](image, severity)
        changed[place] = found.mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
        if masks is not None and moved is not None:
            # A pixel that is half covered stays anomalous, as in reading masks.
            moved[place] = masks[place] if name in VALUES else MOVES[name](masks[place].float(), severity) >= 0.5
    return changed, moved
