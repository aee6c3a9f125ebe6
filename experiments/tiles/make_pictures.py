"""Write photographs of gravel with defects of a few pixels, in MVTec AD's layout: python make_pictures.py <folder>.

40 pictures of 384 x 384 pixels to train on, 20 normal ones and 30 with one defect to test, from disjoint parts of
scikit-image's photograph (CC0, by https://cc0textures.com), enlarged twice. A defect is a patch of 6 x 6 pixels, light
and dark in turn around its surroundings' mean, so that shrinking the picture four times wipes it out.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from kdad.data.demo import load_photograph

SIDE, DEFECT, AMPLITUDE = 384, 6, 70
TRAIN, TEST = (0, 614), (618, 1024)  # columns; the gap, since enlarging mixes neighbouring ones


def cut(photo: np.ndarray, columns: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Cut a random picture between two columns, mirrored half of the time. Returns uint8 (384,384)."""
    y, x = rng.integers(0, photo.shape[0] - SIDE + 1), rng.integers(columns[0], columns[1] - SIDE + 1)
    window = photo[y : y + SIDE, x : x + SIDE]
    return np.ascontiguousarray(window[:, ::-1] if rng.random() < 0.5 else window)


def plant(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a defect. Returns the picture and the mask of its pixels, uint8, 0 or 255."""
    y, x = rng.integers(16, SIDE - 16 - DEFECT, 2)
    place, mask = (slice(y, y + DEFECT), slice(x, x + DEFECT)), np.zeros_like(image)
    stripes = np.where(np.add.outer(np.arange(DEFECT) // 2, np.arange(DEFECT) // 2) % 2, AMPLITUDE, -AMPLITUDE)
    changed = image.copy()
    changed[place] = np.clip(image[place].mean() + stripes, 0, 255).astype(np.uint8)
    mask[place] = 255
    return changed, mask


def write(values: np.ndarray, path: Path) -> None:
    """Write a picture as PNG, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def main(root: Path, n_train: int = 40, n_normal: int = 20, n_anomalous: int = 30) -> None:
    """Write the category `gravel` below a folder."""
    photo, rng, root = load_photograph("gravel"), np.random.default_rng(7), root / "gravel"
    for i in range(n_train):
        write(cut(photo, TRAIN, rng), root / f"train/good/{i:03}.png")
    for i in range(n_normal):
        write(cut(photo, TEST, rng), root / f"test/good/{i:03}.png")
    for i in range(n_anomalous):
        image, mask = plant(cut(photo, TEST, rng), rng)
        write(image, root / f"test/speck/{i:03}.png")
        write(mask, root / f"ground_truth/speck/{i:03}_mask.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the category is written")
    main(parser.parse_args().folder)
