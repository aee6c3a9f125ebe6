"""What may not have been meant is said: transparency, pages, dark 16-bit data, other suffixes, folders below, masks."""

import logging
import shutil
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from kdad.data import Folder, MVTec
from kdad.data.images import look
from kdad.data.masks import decode_mask, find_anomalous_pixels, has_soft_edges
from kdad.errors import UserError

SIDE = 16
RNG = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path, save):
    for name in [*(f"normal/{i}.png" for i in range(6)), "scratch/0.png", "scratch/1.png"]:
        save(tmp_path / "pictures" / name, RNG.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    return tmp_path / "pictures"


@pytest.fixture
def said(root, options, caplog):
    """said(**options) -> what is warned of while a folder is checked and decoded."""

    def call(**changes):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            data = Folder(**options(root, name="mine", **({"anomalous": "scratch"} | changes)))
            data.setup()
        return caplog.text, data

    return call


def test_nothing_odd_is_nothing_said(said):
    text, data = said()
    assert not any(word in text for word in ("transparency", "pages", "dark", "left out"))
    assert not {"n_transparent_images", "n_multi_page_images", "brightest_16_bit_value"} & data.facts.keys()


def test_transparency_is_counted_where_there_is_some(said, root):
    opaque = Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).convert("RGBA")
    opaque.save(root / "normal/opaque.png")
    assert "transparency" not in said()[0]
    opaque.putpixel((0, 0), (1, 2, 3, 0))
    opaque.save(root / "normal/clear.png")
    text, data = said()
    assert "1 images have transparency" in text and "clear.png" in text and data.facts["n_transparent_images"] == 1


def test_files_of_several_pages_are_counted(said, root):
    pages = [Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE), np.uint8)) for _ in range(3)]
    pages[0].save(root / "normal/pages.tif", save_all=True, append_images=pages[1:])
    text, data = said()
    assert "1 files hold several pages" in text and data.facts["n_multi_page_images"] == 1


@pytest.mark.parametrize(("factor", "dark"), [(1, True), (16, False)])
def test_12_bit_data_in_16_bit_files_are_told_of(said, root, factor, dark):
    for path in root.rglob("*.png"):
        Image.fromarray(RNG.integers(0, 4096, (SIDE, SIDE)).astype(np.uint16) * factor).save(path)
    text, data = said()
    assert ("16-bit images are dark" in text) == dark
    assert (3900 < data.facts.get("brightest_16_bit_value", 0) < 4096) == dark


@pytest.mark.parametrize(("top", "told"), [(4095, True), (4096, False), (65535, False)])
def test_12_bit_data_among_16_bit_data_are_told_of(said, root, top, told):
    """By the values alone: of both depths, the darker ones would come out 16 times too dark."""
    for name, highest in {"a": 65535, "b": 40000, "c": top, "d": 0}.items():
        values = np.zeros((SIDE, SIDE), np.uint16)
        values[0, 0] = highest
        Image.fromarray(values).save(root / f"normal/{name}.png")
    text, data = said()
    assert (
        "no value above 4095 in 1 of the 16-bit images" in text
    ) == told and "brightest_16_bit_value" not in data.facts
    assert not told or f"The first is {root / 'normal/c.png'}" in text
    assert "no value above" not in said(intensity="window:0,4095")[0]


def test_pictures_with_other_suffixes_are_counted_by_suffix(said, root):
    for name in ("a.HEIC", "b.heic", "c.jp2", "notes.txt", ".hidden.heic"):
        (root / "normal" / name).write_bytes(b"x")
    text, _ = said()
    assert "2 .heic, 1 .jp2 left out" in text and "txt" not in text


@pytest.mark.parametrize("suffix", ["jfif", "JPE", "pgm", "ppm"])
def test_further_suffixes_are_read(said, root, suffix):
    before = said()[1].facts
    Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE), np.uint8)).save(
        root / f"normal/more.{suffix}", format="JPEG" if suffix in ("jfif", "JPE") else "PPM"
    )
    after = said()[1].facts
    assert after["n_train"] + after["n_test"] == before["n_train"] + before["n_test"] + 1


@pytest.mark.parametrize("key", ["anomalous", "normal_test"])
def test_images_below_a_named_folder_are_not_left_out_in_silence(said, root, key):
    (root / "good").mkdir()
    shutil.copy(root / "normal/0.png", root / "good/0.png")
    folder = {"anomalous": "scratch", "normal_test": "good"}[key]
    (root / folder / "monday").mkdir()
    shutil.copy(root / "normal/1.png", root / folder / "monday/1.png")
    named = {"normal_test": "good", "anomalous": "scratch"}
    with pytest.raises(UserError, match=f"dataset.{key}: .*monday"):
        said(**named)
    named[key] = [folder, f"{folder}/monday"]  # named, they are taken
    said(**named)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_camera_data_in_colour_files_of_16_bits_are_told(said, root, bits, suffix):
    """Pillow reads the upper eight bits of such files, and says nothing of the lower ones."""
    values = RNG.integers(0, 2**bits, (SIDE, SIDE, 3), np.uint16)
    values[0, 0] = 2**bits - 1
    write_deep(root / f"normal/deep{suffix}", values)
    text, data = said()
    assert f"as of {bits}-bit" in text and f"deep{suffix}" in text
    assert data.facts["brightest_16_bit_value"] == 2**bits - 1


def test_colour_files_that_use_all_16_bits_are_not(said, root):
    for suffix in (".png", ".tif"):
        write_deep(root / f"normal/deep{suffix}", RNG.integers(0, 2**16, (SIDE, SIDE, 3), np.uint16))
    assert "bit" not in said()[0]


def write_deep(path, values):
    if path.suffix == ".tif":
        tifffile.imwrite(path, values, photometric="rgb")
        return
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)  # each without a filter
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("name", ["a.pcx", "a.mpo", "a.rw2", "a.HEIC", "picture"])
def test_whatever_may_be_a_picture_is_not_left_out_in_silence(said, root, name):
    (root / "normal" / name).write_bytes(b"x")
    for other in ("notes.txt", "README", "labels.csv", ".hidden", "Thumbs.db"):
        (root / "normal" / other).write_bytes(b"x")
    kind = name[1:].lower() if "." in name else "without a suffix"
    text = said()[0]
    assert f"1 {kind} left out" in text and ".txt" not in text and ".db" not in text


def test_pictures_outside_the_folders_of_a_layout_are_told(tmp_path, save, options, caplog):
    place = tmp_path / "set/tile"
    names = ["train/good/0.png", "train/good/1.png", "test/good/0.png", "test/crack/0.png"]
    strays = ["train/good/deeper/7.png", "test/crack/deep/9.png", "test/loose.png", "train/loose.png"]
    for name in (*names, *strays):
        save(place / name, RNG.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    (place / "test/scratch").mkdir()
    (place / "test/scratch/0.heic").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        MVTec(**options(tmp_path / "set", name="mine", category="tile"), masks=None).check()
    assert "4 pictures of category tile are left out" in caplog.text and "test/loose.png" in caplog.text
    assert f"{place / 'test/scratch'}: 1 .heic left out" in caplog.text


# Masks -----------------------------------------------------------------------------------------------------------


def mask(values, tmp_path, kind="auto"):
    Image.new("RGB", values.shape[::-1]).save(tmp_path / "image.png")
    Image.fromarray(values).save(tmp_path / "mask.png")
    return find_anomalous_pixels(
        decode_mask(tmp_path / "mask.png"), kind, tmp_path / "mask.png", tmp_path / "image.png"
    )[0]


def blob(value=255, side=32):
    values = np.zeros((side, side), np.uint8)
    values[8:20, 10:24] = value
    return values


@pytest.mark.parametrize("value", [1, 2, 127, 255])
def test_a_mask_of_two_values_is_plain(tmp_path, value):
    assert np.array_equal(mask(blob(value), tmp_path), blob() > 0)


def test_soft_and_compressed_edges_are_cut_at_half(tmp_path):
    large = Image.fromarray(blob(side=96).repeat(1, 0)).resize((32, 32), Image.Resampling.BILINEAR)
    soft = np.array(large)
    assert len(np.unique(soft)) > 4 and np.array_equal(mask(soft, tmp_path), soft > 127)
    Image.fromarray(blob()).save(tmp_path / "m.jpg", quality=60)
    compressed = np.array(Image.open(tmp_path / "m.jpg"))
    assert np.array_equal(mask(compressed, tmp_path), blob() > 0)


@pytest.mark.parametrize("classes", [(1, 2), (1, 2, 3, 4, 5, 6), (0, 100, 200), (20, 255), (40, 80, 120, 160, 200)])
def test_classes_of_defects_are_refused_with_the_way_out(tmp_path, classes):
    values = blob(0)
    for row, value in enumerate(classes):
        values[4 + 3 * row : 7 + 3 * row, 4:20] = value
    with pytest.raises(UserError, match="dataset.mask_kind=labels"):
        mask(values, tmp_path)
    assert np.array_equal(mask(values, tmp_path, "labels"), values > 0)


def labels(values, outline=0, side=96):
    """Patches of class numbers, if asked for within an outline, as of an ignored border."""
    mask = np.zeros((side, side), np.uint8)
    for n, value in enumerate(values):
        top, left = 4 + 30 * (n // 3), 4 + 30 * (n % 3)
        mask[top : top + 26, left : left + 26] = outline or value
        mask[top + 2 : top + 24, left + 2 : left + 24] = value
    return mask


@pytest.mark.parametrize(
    ("values", "outline"),
    [([1, 2, 3, 4, 255], 0), ([1, 2, 3, 4, 5, 6, 7, 200], 0), ([50, 100, 150, 200, 250], 0), ([1, 2, 3, 4, 5], 255)],
)
def test_many_classes_are_refused_too(tmp_path, values, outline):
    with pytest.raises(UserError, match="dataset.mask_kind=labels"):
        mask(labels(values, outline), tmp_path)


@pytest.mark.parametrize("size", [48, 96, 300])
@pytest.mark.parametrize("way", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, 70, 95])
def test_masks_that_were_resized_or_compressed_are_taken(tmp_path, size, way):
    crisp = Image.fromarray(blob(side=128).repeat(1, 0)).resize((size * 2, size * 2), Image.Resampling.NEAREST)
    if isinstance(way, Image.Resampling):
        soft = np.array(crisp.resize((size, size), way))
    else:
        crisp.save(tmp_path / "m.jpg", quality=way)
        soft = np.array(Image.open(tmp_path / "m.jpg"))
    assert np.array_equal(mask(soft, tmp_path), soft > 127 if len(np.unique(soft)) > 2 else soft > 0)


REGIONS = {  # small and thin ones: left, top, right and bottom of a rectangle, or the ends and width of a line
    "dot": (10, 10, 12, 12),
    "square": (10, 10, 17, 17),
    "bar": (8, 20, 50, 21),
    "line": (5, 40, 55, 50, 1),
    "wide line": (5, 40, 55, 50, 4),
}


def drawn(region, value=255, on=None):
    """A picture of 64 x 64 px with a region of the value, moved by 0 or, onto another picture, by 12 px."""
    image = Image.new("L", (64, 64)) if on is None else Image.fromarray(on)
    *ends, width = REGIONS[region] if len(REGIONS[region]) == 5 else (*REGIONS[region], 0)
    ends = [n if on is None or i % 2 == 0 else n + 12 for i, n in enumerate(ends)]
    draw = ImageDraw.Draw(image)
    draw.line(ends, value, width) if width else draw.rectangle(ends, value)
    return np.array(image)


@pytest.mark.parametrize("values", [(1, 255), (40, 255), (127, 200), (100, 254, 255), (2, 1)])
@pytest.mark.parametrize("region", REGIONS)
def test_small_and_thin_classes_are_refused(tmp_path, region, values):
    picture = drawn(region, values[0])
    for value in values[1:]:
        picture = drawn("square" if value == 255 else region, value, picture)
    with pytest.raises(UserError, match="dataset.mask_kind=labels"):
        mask(picture, tmp_path)


@pytest.mark.parametrize("value", [1, 2, 40, 128, 200, 254])
@pytest.mark.parametrize("side", [3, 6, 20])
def test_a_class_within_an_outline_is_refused(tmp_path, side, value):
    picture = np.zeros((64, 64), np.uint8)
    picture[9 : 11 + side, 9 : 11 + side] = 255
    picture[10 : 10 + side, 10 : 10 + side] = value
    with pytest.raises(UserError, match="dataset.mask_kind=labels"):
        mask(picture, tmp_path)


@pytest.mark.parametrize("sigma", [0.5, 1, 2, 8])
@pytest.mark.parametrize("region", [*REGIONS, "blob"])
def test_blurred_masks_are_taken_unless_defects_would_be_lost(tmp_path, region, sigma):
    crisp = blob(side=64).astype(float) if region == "blob" else drawn(region).astype(float)
    soft = np.rint(gaussian_filter(crisp, sigma)).astype(np.uint8)
    if (soft > 127).sum() > (soft > 25).sum() / 4:
        assert np.array_equal(mask(soft, tmp_path), soft > 127)
    else:
        assert sigma >= 1 and (sigma == 8 or region != "blob")  # what is wide, or blurred little, stays
        with pytest.raises(UserError, match="dataset.mask_kind=grey"):
            mask(soft, tmp_path)


@pytest.mark.parametrize("quality", [30, 50, 70, 90, 97])
@pytest.mark.parametrize("region", REGIONS)
def test_compressed_masks_of_small_and_thin_regions_are_taken(tmp_path, region, quality):
    Image.fromarray(drawn(region)).save(tmp_path / "m.jpg", quality=quality)
    compressed = np.array(Image.open(tmp_path / "m.jpg"))
    assert np.array_equal(mask(compressed, tmp_path), compressed > 127)


@pytest.mark.parametrize("way", [0.5, 2, 95])
def test_classes_that_were_smoothed_or_compressed_are_refused(tmp_path, way):
    picture = Image.fromarray(labels([40, 90, 255]))
    if way == 95:
        picture.save(tmp_path / "m.jpg", quality=way)
        picture = Image.open(tmp_path / "m.jpg")
    else:
        picture = picture.resize((round(96 * way), round(96 * way)), Image.Resampling.BILINEAR)
    with pytest.raises(UserError, match="dataset.mask_kind=labels"):
        mask(np.array(picture), tmp_path)


def test_the_real_grey_masks_are_judged(kdad_data):
    paths = sorted((kdad_data / "mtd").glob("MT_*/Imgs/*.png"))
    grey = {path.stem: values for path in paths if not np.isin(values := decode_mask(path), (0, values.max())).all()}
    refused = [name for name, values in grey.items() if not has_soft_edges(values, 255)]
    assert len(grey) == 388 and refused == ["exp3_num_24829", "exp4_num_24843"]


def test_a_palette_is_read_by_number_where_masks_are_labels(tmp_path):
    numbers = np.zeros((32, 32), np.uint8)
    numbers[4:10, 4:10], numbers[20:28, 20:28] = 1, 2
    image = Image.fromarray(numbers, "P")
    image.putpalette([200, 200, 200, 255, 0, 0, 0, 0, 0])  # a grey background, and a class whose colour is black
    image.save(tmp_path / "m.png")
    assert np.array_equal(decode_mask(tmp_path / "m.png", "labels"), numbers)
    with pytest.raises(UserError, match=r"m\.png is coloured.*\(200, 200, 200\).*mask_kind=labels"):
        decode_mask(tmp_path / "m.png")


def test_a_coloured_mask_on_white_is_refused_and_on_black_is_read(tmp_path):
    colours = np.full((32, 32, 3), 255, np.uint8)
    colours[4:10, 4:10] = (255, 0, 0)
    Image.fromarray(colours).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png is coloured.*\(255, 255, 255\)"):
        decode_mask(tmp_path / "m.png")
    colours[(colours == 255).all(axis=2)] = 0
    Image.fromarray(colours).save(tmp_path / "m.png")
    assert np.array_equal(decode_mask(tmp_path / "m.png") > 0, colours[..., 0] > 0)


def test_a_mask_with_transparency_is_refused(tmp_path):
    image = Image.fromarray(np.dstack([blob()] * 3 + [blob()]), "RGBA")
    image.save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png has transparent pixels"):
        decode_mask(tmp_path / "m.png")


def test_masks_the_wrong_way_round_are_told_of(said, root, save):
    for i in range(2):
        save(root / f"masks/scratch/{i}.png", 255 - blob(side=SIDE))
    text, data = said(masks="masks")
    assert "2 of 2 masks call more than half of the image anomalous" in text and data.facts["n_large_masks"] == 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_sizes_are_upright_in_every_format(tmp_path, suffix, orientation):
    turned = Image.new("RGB", (64, 96) if orientation >= 5 else (96, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / f"x.{suffix}", exif=exif)
    assert look(tmp_path / f"x.{suffix}").size == (96, 64)
