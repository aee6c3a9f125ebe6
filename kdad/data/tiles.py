"""Pictures in tiles: cut at their full resolution to train on, and one whole picture after the other to test.

In memory are the tiles that are trained on, or their place in the cache, and of a test one picture at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from kdad.data.images import resize_image
from kdad.data.layout import Layout
from kdad.data.loading import Batch
from kdad.data.masks import MaskFacts
from kdad.data.roi import blank, resize_roi
from kdad.data.samples import Sample
from kdad.geometry import ImageSize, Tiles, Tiling, place_tiles


def list_corners(picture: tuple[int, int], tiling: Tiling, inside: NDArray[np.bool_] | None) -> list[tuple[int, int]]:
    """List the upper left corners of the tiles of a picture of (height, width), without those of no interest."""
    (height, width), (tall, wide), (down, right) = picture, *tiling
    corners = [(y, x) for y in place_tiles(height, tall, down) for x in place_tiles(width, wide, right)]
    return [(y, x) for y, x in corners if inside is None or inside[y : y + tall, x : x + wide].any()]


def cut_tiles(
    image: Image.Image, tiling: Tiling, size: ImageSize, inside: NDArray[np.bool_] | None = None, at_once: int = 16
) -> Tiles:
    """Cut an RGB image into tiles, each resized to `size`.

    A picture smaller than a tile is mirrored at its lower and right edge. `inside` bool (H,W) is what is of interest:
    tiles with nothing of it are left out.
    """
    (width, height), (tall, wide) = image.size, tiling.size
    corners = list_corners((height, width), tiling, inside)
    if height < tall or width < wide:
        beyond = ((0, max(0, tall - height)), (0, max(0, wide - width)), (0, 0))
        image = Image.fromarray(np.pad(np.asarray(image), beyond, mode="symmetric"))
    images = [resize_image(image.crop((x, y, x + wide, y + tall)), size) for y, x in corners]
    roi = None if inside is None else cut_region(inside, corners, tiling, size)
    # Laid out as a data set's batches are: channels last.
    laid = torch.stack([tile.permute(1, 2, 0) for tile in images]).permute(0, 3, 1, 2)
    return Tiles(laid, corners, tiling, (height, width), roi, at_once)


def cut_region(
    inside: NDArray[np.bool_], corners: Sequence[tuple[int, int]], tiling: Tiling, size: ImageSize
) -> Tensor:
    """Cut a region of interest bool (H,W) as its picture is. Returns bool (T,1,h,w); beyond the picture none is."""
    tall, wide = tiling.size
    whole = np.pad(inside, ((0, max(0, tall - inside.shape[0])), (0, max(0, wide - inside.shape[1]))))
    return torch.stack([resize_roi(whole[y : y + tall, x : x + wide], size) for y, x in corners])


class Whole(NamedTuple):
    """One picture as it is tested."""

    image: Tensor  # uint8 (3,H,W), outside the region of interest, too
    mask: Tensor | None  # bool (1,H,W), likewise
    roi: NDArray[np.bool_] | None  # (H,W)


class PictureSplit(Dataset):
    """Whole pictures, each read when it is asked for, and cut into tiles; a batch is one picture.

    `change` may take a picture and its place and return another one, before it is cut.
    """

    def __init__(self, data: Layout, samples: Sequence[Sample], tiling: Tiling, at_once: int, masked: bool) -> None:
        self.data, self.samples, self.tiling, self.at_once, self.masked = data, list(samples), tiling, at_once, masked
        self.change: Callable[[Whole, int], Whole] = lambda whole, place: whole

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, chosen: Sequence[int], masked: bool = False) -> "PictureSplit":
        """Return a split of some of the pictures, with their masks if it is to be `masked`."""
        part = PictureSplit(self.data, [self.samples[i] for i in chosen], self.tiling, self.at_once, masked)
        part.change = lambda whole, place: self.change(whole, chosen[place])
        return part

    def read(self, sample: Sample) -> Whole:
        """Read a picture with its mask and its region of interest, outside of which it is still as it was taken.

        Raises `UserError` where that fails.
        """
        picture = self.data.read_picture(sample)
        inside = self.data.find_roi(sample, picture.size)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        if not self.masked:
            return Whole(image, None, inside)
        if sample.mask is None:
            return Whole(image, torch.zeros(1, *image.shape[1:], dtype=torch.bool), inside)
        return Whole(image, torch.from_numpy(self.data.read_anomalous_pixels(sample, True)[0])[None], inside)

    def __getitem__(self, index: int) -> Batch:
        """Return one picture as a batch: its tiles, and at its own size the image, the mask and the region."""
        sample = self.samples[index]
        whole = self.change(self.read(sample), index)
        picture = blank(Image.fromarray(whole.image.permute(1, 2, 0).contiguous().numpy()), whole.roi)
        tiles: Any = cut_tiles(picture, self.tiling, self.data.image_size, whole.roi, self.at_once)
        batch: Batch = {
            "image": torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float().div_(255), "tiles": tiles,
            "label": torch.tensor([sample.label]), "index": torch.tensor([index]),
        }  # fmt: skip
        mask, inside = whole.mask, None if whole.roi is None else torch.from_numpy(whole.roi)[None]
        if mask is not None:
            batch["mask"] = (mask if inside is None else mask & inside)[None]
        if inside is not None:
            batch["roi"] = inside[None]
        return batch


def count_tiles(data: Layout, samples: Sequence[Sample], tiling: Tiling, threads: ThreadPoolExecutor) -> list[int]:
    """Return into how many tiles each picture is cut. Raises `UserError` where one is damaged."""

    def count(sample: Sample) -> int:
        size = data.look_at(sample).size
        return len(list_corners(size[::-1], tiling, data.find_roi(sample, size)))

    return list(threads.map(count, samples))


def cut_all(data: Layout, samples: Sequence[Sample], tiling: Tiling, threads: ThreadPoolExecutor) -> Iterator[Tiles]:
    """Yield the tiles of each picture, in order."""

    def cut(sample: Sample) -> Tiles:
        picture, inside = data.read_inside(sample)
        return cut_tiles(picture, tiling, data.image_size, inside)

    for start in range(0, len(samples), 8):  # whole pictures are large: few wait to be taken
        yield from threads.map(cut, samples[start : start + 8])


def cut_regions(
    data: Layout, samples: Sequence[Sample], tiling: Tiling, threads: ThreadPoolExecutor
) -> Iterator[Tensor]:
    """Yield the regions of interest of the tiles of each picture, bool (T,1,h,w), in order."""

    def cut(sample: Sample) -> Tensor:
        inside = data.find_roi(sample)
        assert inside is not None
        return cut_region(inside, list_corners(inside.shape, tiling, inside), tiling, data.image_size)

    yield from threads.map(cut, samples)


def check_pictures(
    data: Layout, samples: Sequence[Sample], masked: bool, threads: ThreadPoolExecutor
) -> list[MaskFacts]:
    """Look at every test picture and its mask, keeping none. Returns the masks' facts. Raises `UserError`."""

    def check(sample: Sample) -> MaskFacts | None:
        data.find_roi(sample, data.look_at(sample).size)
        return data.look_at_mask(sample) if masked and sample.mask is not None else None

    return [facts for facts in threads.map(check, samples) if facts is not None]
