"""Tiny data sets to read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(name="save")
def save_fixture() -> Callable[[Path, np.ndarray], Path]:
    return save


@pytest.fixture
def mvtec_root(tmp_path: Path) -> Path:
    """Category `tile`: 10 training images of 20 x 16 px, test 3 good and 2 scratch with masks."""
    rng = np.random.default_rng(0)
    tile = tmp_path / "mvtec" / "tile"
    for i in range(10):
        save(tile / f"train/good/{i:03}.png", rng.integers(0, 256, (16, 20, 3), np.uint8))
    for i in range(3):
        save(tile / f"test/good/{i:03}.png", rng.integers(0, 256, (16, 20), np.uint8))
    for i in range(2):
        save(tile / f"test/scratch/{i:03}.png", rng.integers(0, 256, (16, 20), np.uint8))
        mask = np.zeros((16, 20), np.uint8)
        mask[4:12, 5:15] = 255
        save(tile / f"ground_truth/scratch/{i:03}_mask.png", mask)
    return tile.parent


@pytest.fixture
def options() -> Callable[..., dict]:
    """Keyword arguments of a datamodule."""

    def build(root: Path, **changes) -> dict:
        return {"name": "tiny", "root": root, "category": None, "image_size": 8, "batch_size": 4} | changes

    return build
