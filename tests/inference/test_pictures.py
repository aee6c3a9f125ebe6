"""Pictures of any kind become the same RGB image that a data set's reader makes of the file."""

import numpy as np
import pytest
import torch
from PIL import Image

from kdad.data.images import read_image
from kdad.errors import UserError
from kdad.inference.pictures import is_single, iterate, open_picture

COLOUR = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def pixels(source):
    image = open_picture(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_the_same_picture_in_every_form(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    tensor = torch.from_numpy(COLOUR).permute(2, 0, 1)
    forms = [
        str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(COLOUR), COLOUR, tensor, tensor.float() / 255,
        COLOUR.astype(np.float64) / 255, COLOUR.astype(np.uint16) * 257, np.dstack([COLOUR, COLOUR[..., :1]]),
        (tensor.double() / 255),
    ]  # fmt: skip
    for form in forms:
        assert is_single(form) and np.array_equal(pixels(form), COLOUR)
    assert torch.equal(read_image(tmp_path / "a.png", 5), torch.from_numpy(
        np.asarray(open_picture(COLOUR).resize((5, 5), Image.Resampling.BILINEAR))).permute(2, 0, 1))  # fmt: skip


def test_grey_is_repeated():
    grey = COLOUR[..., 0]
    for form in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None], Image.fromarray(grey)):
        assert np.array_equal(pixels(form), np.repeat(grey[..., None], 3, axis=2))


def test_a_turned_picture_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "a.png"), np.rot90(COLOUR, -1))
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(pixels(opened), np.rot90(COLOUR, -1))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((3, 4, 5), np.uint8), "a picture of shape \\(3, 4, 5\\)"),
        (np.zeros((0, 4), np.uint8), "of shape"),
        (np.zeros(4, np.uint8), "of shape"),
        (np.full((4, 4), 200.0), "of floats from 200 to 200: scale them"),
        (np.full((4, 4), np.nan), "scale them to"),
        (np.zeros((4, 4), np.int64), "a picture of int64: give uint8, uint16"),
        (3, "found int"),
        ("nowhere.png", "cannot read image nowhere.png"),
    ],
)
def test_what_is_no_picture(wrong, said):
    with pytest.raises(UserError, match=said):
        open_picture(wrong)


def test_one_or_several():
    several = [[COLOUR], (COLOUR,), np.stack([COLOUR] * 2), torch.zeros(2, 3, 4, 4), iter([COLOUR])]
    assert not any(is_single(source) for source in several)
    assert [len(list(iterate(source))) for source in several] == [1, 1, 2, 2, 1]
    with pytest.raises(UserError, match="found int"):
        list(iterate(3))
