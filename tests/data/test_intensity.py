"""Deep pixels: what becomes of 12, 16 and 32 bits, by which rule, and what is refused; 8 bits stay as they are."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from kdad.data import MNIST, Folder
from kdad.data.images import look, read_image, read_values
from kdad.data.intensity import AUTO, Rule, find_window, map_values, read_rule, restore_rule
from kdad.data.oddities import Header, Oddities
from kdad.errors import UserError
from kdad.storage.cache import ArrayStore

SIDE = 16
RNG = np.random.default_rng(0)


def grey(path: Path, rule: Rule) -> np.ndarray:
    """The grey values of an image as a detector sees them."""
    image = read_image(path, SIDE, rule).numpy()
    assert (image == image[:1]).all()
    return image[0]


def by_hand(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The rule written out, value by value."""
    found = [255 * (min(max(float(v), low), high) - low) / (high - low) for v in values.ravel()]
    return np.array([round(v) for v in found]).reshape(values.shape)


@pytest.fixture
def root(tmp_path) -> Path:
    """12-bit pictures in 16-bit files: 10 normal ones, 2 with a scratch that is brighter."""
    rng, root = np.random.default_rng(1), tmp_path / "pictures"
    for name in [*(f"normal/{i}.png" for i in range(10)), "anomalous/0.png", "anomalous/1.png"]:
        values = rng.integers(1000, 2000, (SIDE, SIDE)).astype(np.uint16)
        values[4:8] += 2000 * name.startswith("anomalous")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(root / name)
    return root


@pytest.fixture
def folder(root, options):
    def build(**changes) -> Folder:
        return Folder(**options(root, name="mine", image_size=SIDE, **changes))

    return build


def test_auto_is_what_was_done_before(tmp_path):
    """8 bits as they are, 16 bits of grey divided by 257, whatever is in the picture."""
    eight = RNG.integers(50, 90, (SIDE, SIDE, 3)).astype(np.uint8)
    Image.fromarray(eight).save(tmp_path / "8.png")
    assert (read_image(tmp_path / "8.png", SIDE).permute(1, 2, 0).numpy() == eight).all()
    deep = RNG.integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "16.png")
    assert (grey(tmp_path / "16.png", AUTO) == np.rint(deep / 257)).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "big.tif", "float.tif", "int32.tif", "8.png"])
def test_a_window_is_linear_and_clips(tmp_path, name):
    path, values = tmp_path / name, RNG.integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
    if name == "8.png":
        values = (values // 16).astype(np.uint8)
    kinds = {"float.tif": "<f4", "int32.tif": "<i4", "big.tif": ">u2"}
    if name in kinds:
        values = (values * (0.25 if "float" in name else 1)).astype(kinds[name])
        tifffile.imwrite(path, values, byteorder=kinds[name][0])
    else:
        Image.fromarray(values).save(path)
    low, high = (20.0, 180.0) if name == "8.png" else (100.5, 900.0)
    assert (grey(path, read_rule(f"window:{low},{high}", 0)) == by_hand(values, low, high)).all()


def test_colours_of_8_bits_are_mapped_channel_by_channel(tmp_path):
    colours = RNG.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", SIDE, read_rule("window:10,100", 0)).permute(1, 2, 0).numpy()
    assert (found == by_hand(colours, 10, 100)).all()


def test_pages_of_a_file(tmp_path):
    pages = RNG.integers(0, 256, (3, SIDE, SIDE)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    for number in range(3):
        assert (grey(tmp_path / "a.tif", read_rule("auto", number)) == pages[number]).all()
    with pytest.raises(UserError, match=r"dataset.page=3: image \S*a.tif has 3 pages, and the first is 0"):
        read_image(tmp_path / "a.tif", SIDE, read_rule("auto", 3))
    Image.fromarray(pages[0]).save(tmp_path / "one.png")
    with pytest.raises(UserError, match="one.png has 1 page, and the first is 0"):
        look(tmp_path / "one.png", read_rule("auto", 1))


def test_percentiles_are_of_all_training_images_and_of_no_other(folder, root):
    """A rule of each image's own would make the scratch as bright as the rest; numpy's percentiles are the reference."""
    data = folder(intensity="percentile:5,95", val_fraction=0.3)
    data.setup()
    values = np.concatenate([np.array(Image.open(s.path)).ravel() for s in data.train_samples])
    low, high = np.percentile(values, [5, 95])
    assert data.rule.window == (low, high) and len(data.train_samples) < 9
    assert data.facts["intensity_low"] == low and data.facts["intensity_high"] == high
    for split, samples in {"val": data.val_samples, "test": data.test_samples}.items():
        seen = [data.splits[split][i]["image"][0] for i in range(len(samples))]
        for image, sample in zip(seen, samples, strict=True):
            expected = by_hand(np.array(Image.open(sample.path)), low, high)
            assert (image.mul(255).round().numpy() == expected).all()


def test_percentiles_of_more_values_than_are_taken(monkeypatch):
    """Drawn at random, each time the same, they come close."""
    monkeypatch.setattr("kdad.data.intensity.MOST", 4000)
    images = [np.random.default_rng(i).integers(0, 4096, (100, 100)).astype(np.uint16) for i in range(4)]
    rule = read_rule("percentile:10,90", 0)
    low, high = find_window(rule, images, 4).window
    assert (low, high) == find_window(rule, images, 4).window
    assert low == pytest.approx(409.5, abs=80) and high == pytest.approx(3686, abs=80)


def test_a_rule_comes_back_from_a_checkpoint():
    for rule in (AUTO, read_rule("window:-1.5,1e4", 2), Rule("percentile:1,99", (0.1, 0.30000000000000004), 0)):
        assert restore_rule(rule.to_plain()) == rule
    assert restore_rule(None) == AUTO and AUTO.key == ()


def test_images_are_cached_by_rule(folder):
    store = ArrayStore("memory")

    def image(**changes) -> torch.Tensor:
        data = folder(**changes)
        data.store = store
        data.setup()
        return data.splits["test"][0]["image"]

    dark, light = image(), image(intensity="window:0,4095")
    assert light.mean() > 10 * dark.mean()
    assert torch.equal(image(), dark) and torch.equal(image(intensity="window:0,4095"), light)
    assert not torch.equal(image(intensity="window:0,4000"), light)


# What is said and refused


def test_12_bits_in_16_are_told_of_until_a_rule_is_given(folder, caplog):
    with caplog.at_level(logging.WARNING):
        folder().setup()
    assert "dataset.intensity=window:0,4095" in caplog.text
    caplog.clear()
    folder(intensity="window:0,4095").setup()
    assert "dark" not in caplog.text


def test_8_and_16_bits_under_one_window_are_told_of(folder, root, caplog):
    Image.fromarray(RNG.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)).save(root / "normal/eight.png")
    folder(intensity="window:0,4095").setup()
    assert "12 of 13 images are deep, the others of 8 bits" in caplog.text


@pytest.mark.parametrize(
    "intensity",
    ["", "linear", "window", "window:", "window:1", "window:1,2,3", "window:a,b", "window:nan,1", "percentile:1", 7,
     "window:0", "4095", "auto:0,1", "window:1e999,2e999"],
)  # fmt: skip
def test_what_is_no_rule(intensity):
    with pytest.raises(UserError, match=r"dataset.intensity=.*give auto, window:<lo>,<hi>"):
        read_rule(intensity, 0)


@pytest.mark.parametrize(
    "intensity", ["window:5,5", "window:9,1", "percentile:99,1", "percentile:-1,50", "percentile:0,101"]
)
def test_rules_that_leave_nothing(intensity):
    with pytest.raises(UserError, match=f"dataset.intensity={intensity}"):
        read_rule(intensity, 0)


@pytest.mark.parametrize("page", [-1, 1.5, True, "1"])
def test_what_is_no_page(page):
    with pytest.raises(UserError, match="dataset.page="):
        read_rule("auto", page)


def test_percentiles_that_meet(folder, root):
    for path in root.rglob("*.png"):
        Image.fromarray(np.full((SIDE, SIDE), 700, np.uint16)).save(path)
    with pytest.raises(UserError, match=r"dataset.intensity=percentile:1,99: .* both percentiles are 700"):
        folder(intensity="percentile:1,99").setup()


def test_percentiles_without_training_images(folder):
    data = folder(intensity="percentile:1,99")
    data.trains = False
    with pytest.raises(UserError, match="there are none: give the window"):
        data.setup()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_floats_that_are_no_numbers(tmp_path, bad):
    values = np.zeros((SIDE, SIDE), np.float32)
    values[3, 4] = bad
    tifffile.imwrite(tmp_path / "a.tif", values)
    for read in (read_values, look):
        with pytest.raises(UserError, match=r"a.tif has 1 pixels that are NaN or infinite"):
            read(tmp_path / "a.tif", read_rule("window:0,1", 0))


def test_floats_without_a_rule(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.linspace(-1, 3, SIDE * SIDE).astype(np.float32).reshape(SIDE, SIDE))
    with pytest.raises(UserError, match=r"a.tif .*\(-1 to 3\).*dataset.intensity=window:<lo>,<hi>"):
        look(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "packed.tif"])
def test_deep_colours_are_refused_under_a_rule(tmp_path, name):
    """Pillow gives the upper 8 of 16 bits: of 12 bits hardly anything would be left, in silence."""
    colours = RNG.integers(0, 4096, (SIDE, SIDE, 3)).astype(np.uint16)
    if name == "a.png":
        from tests.data.test_oddities import write_deep

        write_deep(tmp_path / name, colours)
    else:
        tifffile.imwrite(tmp_path / name, colours, compression="zlib" if name == "packed.tif" else None)
    read_image(tmp_path / name, SIDE)
    with pytest.raises(UserError, match="colours of 16 bits"):
        read_image(tmp_path / name, SIDE, read_rule("window:0,4095", 0))


@pytest.mark.parametrize("window", ["9000,9001", "0,10"])
def test_a_window_that_holds_no_value_is_refused_before_training(folder, window):
    data = folder(intensity=f"window:{window}")
    with pytest.raises(UserError, match=rf"dataset.intensity=window:{window}: the values of the images go from \d+ to"):
        data.setup()


def test_pictures_of_8_bits_under_a_window_of_deeper_ones_are_remarked_upon(tmp_path):
    shallow = Oddities(read_rule("window:0,4095", 0))
    shallow.add(tmp_path / "a.png", Header())
    assert "none of 1 images is deeper than 8 bits, but window:0,4095" in shallow.describe()[0]
    fitting = Oddities(read_rule("window:10,200", 0))
    fitting.add(tmp_path / "a.png", Header())
    assert fitting.describe() == []
    fitting.refuse_window()


def test_whole_numbers_of_32_bits_are_refused_when_they_are_checked(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((SIDE, SIDE), 100_000, np.int32))
    with pytest.raises(UserError, match=r"a.tif holds 32-bit values"):
        look(tmp_path / "a.tif")
    look(tmp_path / "a.tif", read_rule("window:0,200000", 0))


def test_sets_that_are_no_files(tmp_path, options):
    with pytest.raises(UserError, match="dataset.intensity=window:0,9 dataset.page=0: images of tiny"):
        MNIST(**options(tmp_path, category="3", intensity="window:0,9")).check()


def test_masks_stay_on_the_first_page_and_size_is_that_of_the_page(tmp_path, folder, root):
    """Of a stack, the page that is read has the mask's size, though the first is a thumbnail."""
    for path in [*root.rglob("*.png")]:
        with tifffile.TiffWriter(path.with_suffix(".tif")) as file:
            file.write(np.zeros((4, 4), np.uint16))
            file.write(np.array(Image.open(path)))
        path.unlink()
    for i in range(2):
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((SIDE, SIDE), 255 * i, np.uint8)).save(root / f"masks/{i}.png")
    data = folder(page=1, masks="masks", intensity="window:0,4095")
    data.setup()
    assert data.splits["test"].masks.sum() == SIDE**2


def test_values_are_mapped_whatever_their_type():
    for kind in (np.uint8, np.int16, np.float32, np.float64, ">u2"):
        assert map_values(np.array([0, 5, 10, 20]).astype(kind), Rule("", (5.0, 15.0))).tolist() == [0, 0, 128, 255]
