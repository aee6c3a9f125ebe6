"""A defect that resizing wipes out is found in tiles, and missed in whole pictures."""

import importlib.util
import json
from pathlib import Path

import pytest

from kdad.engine.run_folder import RunFolder
from kdad.run import run
from kdad.settings.compose import compose

MAKE = Path(__file__).parents[2] / "experiments/tiles/make_pictures.py"


@pytest.mark.slow
def test_specks_are_found_in_tiles_alone(tmp_path, lite0):
    spec = importlib.util.spec_from_file_location("make_pictures", MAKE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path / "data", 8, 3, 3)
    found = {}
    for name, tiling, epochs in (("tiles", "auto", 3), ("whole", "null", 6)):
        cfg = compose(
            "model=stpm", "dataset=mvtec", f"dataset.root={tmp_path / 'data'}", "category=gravel",
            "backbone=efficientnet_lite0", "image_size=96", f"trainer.max_epochs={epochs}", f"tiling.size={tiling}",
            "trainer.accelerator=cpu", "logger=none", "val_fraction=0", "monitor=null",
        )  # fmt: skip
        run(cfg, RunFolder(tmp_path / name))
        found[name] = json.loads((tmp_path / name / "results.json").read_text())
    # After so few steps the place is found; whole pictures are told apart with more, see experiments/tiles.
    assert found["tiles"]["pro"] > 0.9 and found["tiles"]["pixel_auroc"] > 0.96
    assert found["whole"]["pro"] < 0.5 and found["whole"]["pixel_auroc"] < 0.9
