"""Tiny data sets and an in-process `python -m kdad.run`."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdad.engine.run_folder import RunFolder
from kdad.run import main, run
from kdad.settings.compose import compose

# One epoch of a network of half a million random weights
SMALL = (
    "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false", "image_size=64",
    "batch_size=4", "trainer.max_epochs=1",
)  # fmt: skip
PLUGINS = Path(__file__).parents[1] / "plugins" / "conf"


@pytest.fixture(scope="session")
def tiny_mvtec(tmp_path_factory):
    """A category "tile" in MVTec's layout: noise images, the anomalous ones with a bright square."""
    root = tmp_path_factory.mktemp("mvtec")
    generator = np.random.default_rng(0)

    def save(path, array):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    for i in range(8):
        save(root / "tile/train/good" / f"{i:03d}.png", generator.integers(60, 120, (70, 70, 3), dtype=np.uint8))
    for i in range(3):
        save(root / "tile/test/good" / f"{i:03d}.png", generator.integers(60, 120, (70, 70, 3), dtype=np.uint8))
        image, mask = generator.integers(60, 120, (70, 70, 3), dtype=np.uint8), np.zeros((70, 70), np.uint8)
        image[20:40, 30:50], mask[20:40, 30:50] = 230, 255
        save(root / "tile/test/square" / f"{i:03d}.png", image)
        save(root / "tile/ground_truth/square" / f"{i:03d}_mask.png", mask)
    return root


@pytest.fixture
def start(tiny_mvtec, tmp_path):
    """start("key=value", ..., folder=...) -> (results, folder), with random teacher weights."""

    def call(*overrides, folder="run"):
        cfg = compose(
            "model=rd", "dataset=mvtec", f"dataset.root={tiny_mvtec}", "category=tile", *SMALL,
            "trainer.accelerator=cpu", "overwrite=true", f"hydra.searchpath=[file://{PLUGINS}]", *overrides,
        )  # fmt: skip
        return run(cfg, RunFolder(tmp_path / folder)), tmp_path / folder

    return call


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command("-m", "key=value", ...) -> exit status of `python -m kdad.run` in this process and in tmp_path."""

    def call(*arguments, main=main):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["kdad", *arguments])
        try:
            main()
        except SystemExit as stopped:
            return stopped.code
        return 0

    return call
