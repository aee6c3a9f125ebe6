import numpy as np
import pytest
import torch
from PIL import Image

from kdad.data.images import look, read_image
from kdad.data.masks import MaskFacts, decode_mask, find_anomalous_pixels, resize_mask
from kdad.errors import UserError

GREY = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


def saved(tmp_path, image, name="image.png", **keywords):
    image.save(tmp_path / name, **keywords)
    return tmp_path / name


def as_rgb(grey):
    return torch.from_numpy(grey).expand(3, *grey.shape)


def test_grey_is_repeated(tmp_path):
    image = read_image(saved(tmp_path, Image.fromarray(GREY)), 8)
    assert image.dtype == torch.uint8 and torch.equal(image, as_rgb(GREY))


def test_rgb_channels_keep_their_order(tmp_path):
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 0], colour[..., 2] = 200, 7
    assert read_image(saved(tmp_path, Image.fromarray(colour)), 8)[:, 0, 0].tolist() == [200, 0, 7]


def test_palette_gives_its_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    read = read_image(saved(tmp_path, image), 2)
    assert read[:, 0, 0].tolist() == [10, 20, 30] and read[:, 0, 1].tolist() == [40, 50, 60]


def test_alpha_is_dropped_and_its_colour_kept(tmp_path):
    rgba = np.dstack([GREY, GREY, GREY, np.where(GREY > 99, 255, 0).astype(np.uint8)])
    assert torch.equal(read_image(saved(tmp_path, Image.fromarray(rgba)), 8), as_rgb(GREY))


def test_one_bit_is_black_and_white(tmp_path):
    image = read_image(saved(tmp_path, Image.fromarray(GREY > 99)), 8)
    assert torch.equal(image, as_rgb(np.where(GREY > 99, 255, 0).astype(np.uint8)))


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_grey_equals_its_8_bit_version(tmp_path, name):
    image = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert image.mode.startswith("I;16")
    assert torch.equal(read_image(saved(tmp_path, image, name), 8), as_rgb(GREY))


def test_16_bit_rgb_equals_its_8_bit_version(tmp_path):
    tifffile = pytest.importorskip("tifffile")  # comes with scikit-image; Pillow cannot write this
    tifffile.imwrite(tmp_path / "deep.tif", np.dstack([GREY] * 3).astype(np.uint16) * 257, photometric="rgb")
    assert torch.equal(read_image(tmp_path / "deep.tif", 8), as_rgb(GREY))


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    path = saved(tmp_path, Image.fromarray(GREY), "turned.png", exif=exif)
    assert torch.equal(read_image(path, 8), as_rgb(np.rot90(GREY, -1).copy()))


def test_downscaling_averages_and_crops_nothing(tmp_path):
    """Without antialiasing a 1-px checkerboard would give 0 and 255; with a crop the halves would move."""
    checks = np.indices((64, 128)).sum(0) % 2 * 255
    assert (read_image(saved(tmp_path, Image.fromarray(checks.astype(np.uint8))), 8).float() - 127.5).abs().max() < 16
    halves = np.zeros((20, 80), np.uint8)
    halves[:, 40:] = 255
    image = read_image(saved(tmp_path, Image.fromarray(halves)), 8)
    assert (image[0, :, :3] == 0).all() and (image[0, :, 5:] == 255).all()


@pytest.mark.parametrize("damage", ["truncated", "text", "absent"])
def test_unreadable_image_is_refused_by_name(tmp_path, damage):
    path = saved(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)), "x.png")
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:1500] if damage == "truncated" else b"no image")
    with pytest.raises(UserError, match="x.png"):
        read_image(path, 8)


def test_floating_point_image_is_refused_by_name(tmp_path):
    path = saved(tmp_path, Image.fromarray(GREY.astype(np.float32)), "float.tif")
    with pytest.raises(UserError, match="float.tif"):
        read_image(path, 8)


def read_mask(path, size, image, kind="binary"):
    anomalous, nonbinary = find_anomalous_pixels(decode_mask(path), kind, path, image)
    return resize_mask(anomalous, size, nonbinary)


def mask_of(tmp_path, pixels, size=8, kind="binary"):
    image = saved(tmp_path, Image.new("L", pixels.shape[::-1]), "image.png")
    return read_mask(saved(tmp_path, Image.fromarray(pixels), "mask.png"), size, image, kind)


@pytest.mark.parametrize("value", [1, 255])
def test_mask_is_resized_like_its_image(tmp_path, value):
    pixels = np.zeros((16, 32), np.uint8)
    pixels[4:8, 8:24] = value
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:4, 2:6] = True
    mask, facts = mask_of(tmp_path, pixels)
    assert mask.dtype == torch.bool and torch.equal(mask, expected)
    assert facts == MaskFacts(empty=False, vanished=False, nonbinary=False)


def test_a_pixel_that_is_half_covered_stays_anomalous(tmp_path):
    """As in the authors' code: the mean of 0 and 255 is rounded up in 8 bits, and a quarter is not enough."""
    half, quarter = np.zeros((2, 2, 2), np.uint8)
    half[:, 0] = quarter[0, 0] = 255
    assert mask_of(tmp_path, half, 1)[0].all() and not mask_of(tmp_path, quarter, 1)[0].any()
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, 8:17] = 255  # columns 2 to 7 at a quarter of the size would be 2 to 4 were the last lost
    assert mask_of(tmp_path, stripes, 32)[0][16].nonzero().flatten().tolist() == [4, 5, 6, 7, 8]


def test_mask_at_its_own_size_is_unchanged(tmp_path):
    pixels = (np.random.default_rng(0).random((8, 8)) > 0.5).astype(np.uint8) * 255
    assert torch.equal(mask_of(tmp_path, pixels)[0], torch.from_numpy(pixels > 0))


def test_vanished_and_empty_masks_are_told_apart(tmp_path):
    pixels = np.zeros((64, 64), np.uint8)
    assert mask_of(tmp_path, pixels)[1] == MaskFacts(empty=True, vanished=False, nonbinary=False)
    pixels[30, 30] = 255
    assert mask_of(tmp_path, pixels)[1] == MaskFacts(empty=False, vanished=True, nonbinary=False)


def test_grey_mask_is_refused_or_cut_at_127(tmp_path):
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2], pixels[4] = 127, 128
    with pytest.raises(UserError, match=r"mask\.png has 3 grey levels"):
        mask_of(tmp_path, pixels)
    mask, facts = mask_of(tmp_path, pixels, kind="grey")
    assert torch.equal(mask, torch.from_numpy(pixels == 128)) and facts.nonbinary


def test_mask_of_another_size_is_refused_with_both_names_and_sizes(tmp_path):
    image = saved(tmp_path, Image.new("L", (20, 16)), "image.png")
    mask = saved(tmp_path, Image.new("L", (16, 20)), "mask.png")
    with pytest.raises(UserError, match=r"mask\.png is 16 x 20 .*image\.png is 20 x 16"):
        read_mask(mask, 8, image)


@pytest.mark.parametrize("name", ["image.jpg", "image.png"])
def test_mask_of_a_turned_photograph_has_its_upright_size(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = saved(tmp_path, Image.new("L", (20, 16)), name, exif=exif)
    assert look(image).size == (16, 20)
    mask, _ = read_mask(saved(tmp_path, Image.new("L", (16, 20)), "mask.png"), 8, image)
    assert not mask.any()


def test_a_16_bit_mask_counts_as_stored(tmp_path):
    """Scaled to 8 bits, a mask of 0 and 1 would be empty."""
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "image.png")
    for value in (1, 100, 65535):
        values = np.zeros((8, 8), np.uint16)
        values[2:6, 2:6] = value
        Image.fromarray(values).save(tmp_path / "mask.png")
        mask, facts = read_mask(tmp_path / "mask.png", 8, tmp_path / "image.png")
        assert mask.sum() == 16 and not facts.empty and not facts.nonbinary


def test_label_masks_count_whatever_is_not_zero(tmp_path):
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2], pixels[4], pixels[6] = 1, 2, 255
    mask, facts = mask_of(tmp_path, pixels, kind="labels")
    assert torch.equal(mask, torch.from_numpy(pixels > 0)) and not facts.nonbinary


def test_a_folder_of_masks_is_their_union(tmp_path):
    image, parts = saved(tmp_path, Image.new("L", (8, 8)), "image.png"), np.zeros((2, 8, 8), np.uint8)
    parts[0, 1:3], parts[1, 2:5] = 255, 7
    (tmp_path / "000").mkdir()
    for i, part in enumerate(parts):
        saved(tmp_path / "000", Image.fromarray(part), f"{i:03}.png")
    mask, _ = read_mask(tmp_path / "000", 8, image, "labels")
    assert torch.equal(mask, torch.from_numpy(parts.any(0)))
    saved(tmp_path / "000", Image.new("L", (9, 8)), "002.png")
    with pytest.raises(UserError, match=r"000 should be .* of the same size; found 000.png 8 x 8, .*, 002.png 9 x 8"):
        decode_mask(tmp_path / "000")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty should be one or more .* found none"):
        decode_mask(tmp_path / "empty")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_a_look_tells_size_and_mode_and_finds_damage(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), f"x.{suffix}")
    assert look(path) == ((80, 60), "RGB")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) * 2 // 3], b"no image"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"x.{suffix}"):
            look(path)


def test_a_look_finds_a_changed_byte_in_a_png(tmp_path):
    path = saved(tmp_path, Image.fromarray(GREY), "x.png")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 12] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.png"):
        look(path)


def test_a_picture_of_a_format_that_starts_programs_is_not_opened(tmp_path):
    """Pillow goes by the content, and gives EPS to Ghostscript, whatever the file is called."""
    from PIL import Image

    from kdad.data.images import look, read_image
    from kdad.errors import UserError

    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(path, "EPS")
    assert Image.open(path).format == "EPS"
    for read in (look, lambda file: read_image(file, 32)):
        with pytest.raises(UserError, match="cannot read image .*a.png: not of a known format"):
            read(path)
