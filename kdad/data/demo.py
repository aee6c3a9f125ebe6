"""Demo data: texture photographs with drawn defects of known extent, made on the spot, nothing to download.

The photographs are `brick`, `grass` and `gravel` as bundled with scikit-image (512 x 512 grey, CC0,
by https://cc0textures.com). What makes a result on them mean something:

- training and test crops come from disjoint parts of a photograph, left and right;
- a defect changes a pixel by at most `CONTRAST` grey levels and brings in only values from the
  middle of the photograph's own histogram, so that statistics of single pixels do not find it: it
  is its structure that is foreign to the texture;
- a mask is exactly the set of changed pixels.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from kdad.data.mvtec import MVTec
from kdad.errors import UserError
from kdad.storage.atomic import build_folder, has_content

CROP = 128
ZOOM = 2  # the photographs are enlarged: grass blades are as fine as any defect otherwise
TRAIN_COLUMNS, TEST_COLUMNS = (0, 614), (618, 1024)  # the gap: enlarging mixes neighbouring columns
N_TRAIN, N_TEST, N_PER_KIND = 200, 40, 12
CONTRAST = 96  # grey levels, of 255, by which a defect may change a pixel at most
COVERAGE = 0.005, 0.05  # share of an image's pixels that a defect may change
AMPLITUDE = 100  # of a pattern around the median below it, before that bound
# What the foreign patches show: every n-th pixel of which photograph.
FOREIGN = {"brick": (1, "grass"), "grass": (4, "brick"), "gravel": (4, "brick")}
CATEGORIES = tuple(FOREIGN)


class Demo(MVTec):
    """The demo set as a datamodule; its images are written below `root` when they are first needed."""

    needs_root = False
    default_category = "brick"
    obtain = "kdad makes it from photographs bundled with scikit-image (CC0); there is nothing to download"

    def prepare_data(self) -> None:
        write_demo(self.root)


def write_demo(root: Path) -> None:
    """Write all categories below `root` unless it has content already.

    The folder appears whole or not at all, also when several processes start at once. Raises `UserError` where it
    cannot be written.
    """
    if has_content(root):
        return
    try:
        with build_folder(root) as build:
            for category in CATEGORIES:
                for name, pixels in make_demo_images(category):
                    path = build / category / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)
    except OSError as error:
        raise UserError(
            f"cannot write the demo data to {root}: {error}; dataset.root=<folder> puts it elsewhere"
        ) from error


def make_demo_images(category: str) -> Iterator[tuple[str, np.ndarray]]:
    """Make the images of a category, and their masks of 0 and 255, one after the other.

    Yields (path below the category's folder, uint8 (128,128)).
    """
    photo = load_photograph(category)
    rng = np.random.default_rng([1, CATEGORIES.index(category)])
    for i in range(N_TRAIN):
        yield f"train/good/{i:03}.png", crop(photo, TRAIN_COLUMNS, rng)
    for i in range(N_TEST):
        yield f"test/good/{i:03}.png", crop(photo, TEST_COLUMNS, rng)
    for kind in DEFECTS:
        for i in range(N_PER_KIND):
            image, mask = plant(kind, crop(photo, TEST_COLUMNS, rng), category, rng)
            yield f"test/{kind}/{i:03}.png", image
            yield f"ground_truth/{kind}/{i:03}_mask.png", mask.astype(np.uint8) * 255


@cache
def load_photograph(category: str, zoom: int = ZOOM) -> np.ndarray:
    """Load the photograph of a category, enlarged. Returns uint8 (512 zoom, 512 zoom)."""
    photo = Image.fromarray(getattr(skimage.data, category)())
    return np.asarray(photo.resize((photo.width * zoom, photo.height * zoom), Image.Resampling.BILINEAR))


def crop(photo: np.ndarray, columns: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Cut a random window out of a photograph, between two columns. Returns uint8 (128,128).

    It is mirrored half of the time: the bricks lean left in one part of the photograph and right in the other.
    """
    y = rng.integers(0, photo.shape[0] - CROP + 1)
    x = rng.integers(columns[0], columns[1] - CROP + 1)
    window = photo[y : y + CROP, x : x + CROP]
    return np.ascontiguousarray(window[:, ::-1] if rng.random() < 0.5 else window)


def measure_value_range(photo: np.ndarray) -> tuple[float, float]:
    """Return the lowest and the highest grey level of the middle 96 % of a photograph's pixels."""
    low, high = np.percentile(photo, (2, 98))
    return float(low), float(high)


def plant(kind: str, image: np.ndarray, category: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one defect into a crop. Returns the uint8 image and the bool mask of exactly the changed pixels."""
    low, high = measure_value_range(load_photograph(category))
    inside, target = DEFECTS[kind](image, category, rng)
    while not COVERAGE[0] <= inside.mean() <= COVERAGE[1]:
        inside, target = DEFECTS[kind](image, category, rng)
    before = image.astype(int)
    after = np.rint(np.clip(target, low, high)).astype(int)
    after = np.clip(after, before - CONTRAST, before + CONTRAST)
    # A pixel that happens to keep its value moves one level inwards, so that masks have no pinholes.
    after = np.where(after == before, before + np.where(before < (low + high) / 2, 1, -1), after)
    return np.where(inside, after, before).astype(np.uint8), inside


def _draw_axes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw two perpendicular axes through a random centre. Returns each pixel's coordinates u, v along them."""
    y, x = np.mgrid[:CROP, :CROP] - rng.uniform(28, CROP - 28, (2, 1, 1))
    angle = rng.uniform(0, np.pi)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _draw_radius(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a blob. Returns each pixel's radius: 0 in the centre, 1 on a wavy outline 24 to 36 px across."""
    wave = 1 + 0.1 * np.sin(3 * np.arctan2(v, u) + rng.uniform(0, 2 * np.pi))
    return np.hypot(u / rng.uniform(15, 18), v / rng.uniform(12, 14)) / wave


# Each of the following draws one kind of defect over a crop. It returns which pixels the defect takes, bool (128,128),
# and which values they should have, before these are bounded.


def draw_scratch(image: np.ndarray, category: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw three parallel curved grooves of 2 px, light with a dark edge, 44 to 58 px long."""
    u, v = _draw_axes(rng)
    v = v + rng.uniform(-0.006, 0.006) * u**2
    inside = (np.abs(u) < rng.uniform(22, 29)) & (np.abs(v) < 6)
    return inside, np.median(image) + np.where(v % 4 < 2, AMPLITUDE, -AMPLITUDE)


def draw_stain(image: np.ndarray, category: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a blot that dried in concentric rings, half faded into the texture at its outline."""
    radius = _draw_radius(*_draw_axes(rng), rng)
    inside = radius < 1
    rings = np.median(image[inside]) + AMPLITUDE * np.clip(2 * np.cos(2 * np.pi * radius * 2.2), -1, 1)
    return inside, image + np.clip(6 * (1 - radius), 0.5, 1) * (rings - image)


def draw_fabric(image: np.ndarray, category: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scrap of woven cloth: a smooth checked pattern with a period of 6 to 8 px."""
    u, v = _draw_axes(rng)
    inside = _draw_radius(u, v, rng) < 1
    period = rng.uniform(6, 8)
    weave = np.sin(2 * np.pi * u / period) * np.sin(2 * np.pi * v / period)
    return inside, np.median(image[inside]) + AMPLITUDE * weave


def draw_foreign(image: np.ndarray, category: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a piece of another photograph, finer, as bright on average as what it covers."""
    step, other = FOREIGN[category]
    fine = load_photograph(other, zoom=1)[::step, ::step]
    fine = np.rot90(fine, int(rng.integers(4)))
    y, x = rng.integers(0, fine.shape[0] - CROP + 1, 2)
    piece = fine[y : y + CROP, x : x + CROP].astype(float)
    inside = _draw_radius(*_draw_axes(rng), rng) < 1
    return inside, image[inside].mean() + (piece - piece[inside].mean()) / piece[inside].std() * 55


def draw_hole(image: np.ndarray, category: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a dark pit with a light, chipped rim."""
    radius = _draw_radius(*_draw_axes(rng), rng)
    return radius < 1, np.median(image) + np.where(radius > 0.75, AMPLITUDE, -AMPLITUDE)


DEFECTS = {
    "scratch": draw_scratch,
    "stain": draw_stain,
    "fabric": draw_fabric,
    "foreign": draw_foreign,
    "hole": draw_hole,
}
