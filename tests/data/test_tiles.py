"""Pictures in tiles: cut without a gap at full resolution, and put together without a seam."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from kdad.data.tiles import cut_tiles
from kdad.errors import UserError
from kdad.functional import detect_by_tiles
from kdad.geometry import Tiling, place_tiles, read_tiling


@pytest.mark.parametrize(("length", "side", "overlap", "expected"), [
    (10, 4, 1, [0, 3, 6]), (10, 4, 0, [0, 3, 6]), (10, 10, 3, [0]), (7, 10, 3, [0]), (12, 4, 0, [0, 4, 8]),
    (13, 4, 2, [0, 2, 4, 5, 7, 9]),
])  # fmt: skip
def test_tiles_lie_from_end_to_end(length, side, overlap, expected):
    assert place_tiles(length, side, overlap) == expected


@pytest.mark.parametrize("length", range(1, 80, 7))
@pytest.mark.parametrize(("side", "overlap"), [(16, 0), (16, 4), (16, 8), (9, 3)])
def test_no_pixel_is_left_out_and_neighbours_share_what_was_asked(length, side, overlap):
    starts = place_tiles(length, side, overlap)
    assert starts[0] == 0 and starts[-1] == max(0, length - side)
    assert all(0 < b - a <= side - overlap for a, b in pairwise(starts))


def test_the_configuration():
    assert read_tiling(None, "auto", 256) is None
    assert read_tiling("auto", "auto", (64, 96)) == Tiling((64, 96), (16, 24))
    assert read_tiling(512, 100, 256) == Tiling((512, 512), (100, 100))
    assert read_tiling([300, 200], [30, 0], 256) == Tiling((300, 200), (30, 0))


@pytest.mark.parametrize(("size", "overlap", "message"), [
    (0, "auto", "tiling.size=0: give pixels of the picture, at least 1"), ("big", "auto", "tiling.size=big"),
    (64, -1, "tiling.overlap=-1"), (64, 33, r"tiling.overlap=33: neighbours of 64 pixels share half of that at most"),
    ([64], "auto", r"tiling.size=\[64\]"), (64.5, "auto", "tiling.size=64.5"), (64, True, "tiling.overlap=True"),
])  # fmt: skip
def test_what_cuts_no_tiles_is_refused(size, overlap, message):
    with pytest.raises(UserError, match=message):
        read_tiling(size, overlap, 256)


def picture(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def see(batch):
    """A detector whose map is the image's first channel, and whose score is its largest value."""
    maps = batch["image"][:, :1]
    return maps, maps.amax(dim=(1, 2, 3))


@pytest.mark.parametrize(("height", "width"), [(50, 70), (32, 32), (20, 90), (10, 10), (33, 31)])
@pytest.mark.parametrize("overlap", [0, 8, 16])
def test_tiles_at_their_own_size_give_the_picture_back(height, width, overlap):
    image = picture(height, width)
    tiles = cut_tiles(image, Tiling((32, 32), (overlap, overlap)), 32, at_once=3)
    joined, score = detect_by_tiles(see, tiles, torch.float32)
    expected = torch.from_numpy(np.array(image)[..., 0]).float() / 255
    assert joined.shape == (1, 1, height, width)
    torch.testing.assert_close(joined[0, 0], expected, rtol=0, atol=1e-6)
    assert score.tolist() == [pytest.approx(expected.max().item())]


def test_a_tile_is_that_part_of_the_picture_resized():
    image = picture(100, 140)
    tiles = cut_tiles(image, Tiling((60, 80), (10, 10)), (30, 40))
    assert tiles.starts == [(0, 0), (0, 60), (40, 0), (40, 60)] and tiles.picture == (100, 140)
    for (top, left), tile in zip(tiles.starts, tiles.images, strict=True):
        part = image.crop((left, top, left + 80, top + 60)).resize((40, 30), Image.Resampling.BILINEAR)
        assert np.array_equal(tile.permute(1, 2, 0).numpy(), np.array(part))


def test_where_tiles_differ_the_map_has_no_seam():
    """Tiles that say 0, 1, 2, ... everywhere: the map goes from one to the next in steps no larger than 1 / overlap."""
    tiles = cut_tiles(picture(32, 128), Tiling((32, 32), (16, 16)), 32)
    numbers = iter(range(len(tiles.starts)))

    def count(batch):
        values = torch.tensor([float(next(numbers)) for _ in batch["image"]])
        return values[:, None, None, None].expand(-1, 1, 32, 32), values

    row = detect_by_tiles(count, tiles, torch.float32)[0][0, 0, 0]
    steps = row.diff()
    assert row[0] == 0 and row[-1] == len(tiles.starts) - 1
    assert (steps >= -1e-6).all() and steps.max() <= 1 / 16 + 1e-6


def test_no_more_tiles_are_computed_at_once_than_a_batch():
    tiles, seen = cut_tiles(picture(200, 200), Tiling((32, 32), (8, 8)), 32, at_once=4), []

    def count(batch):
        seen.append(len(batch["image"]))
        return see(batch)

    detect_by_tiles(count, tiles, torch.float32)
    assert max(seen) == 4 and sum(seen) == len(tiles.starts) == 64


def test_tiles_without_anything_of_interest_are_left_out():
    inside = np.zeros((100, 100), dtype=bool)
    inside[:20, 50:] = True
    tiles = cut_tiles(picture(100, 100), Tiling((50, 50), (0, 0)), 50, inside)
    assert tiles.starts == [(0, 50)]
    assert tiles.roi.shape == (1, 1, 50, 50) and tiles.roi[0, 0, :20].all() and not tiles.roi[0, 0, 20:].any()
