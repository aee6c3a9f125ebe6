"""Every YAML in conf/ trains one batch and tests."""

import numpy as np
import pytest
from PIL import Image

from kdad.settings.compose import CONF, list_choices
from tests.layouts import LAYOUTS, stc_with_videos
from tests.one_class import WRITERS

ONE = ["trainer.limit_train_batches=1", "pictures=1", "optimizer.lr=0.001"]
GROUPS = [(group, name) for group in ("backbone", "model") for name in list_choices(group)]


@pytest.mark.parametrize(("group", "name"), GROUPS)
def test_models_and_backbones(start, group, name):
    # Of a large backbone STPM's student is a third of RD's.
    stpm = ["model=stpm", "val_fraction=0.25"] if group == "backbone" or name == "stpm" else []
    results, _ = start(*stpm, f"{group}={name}", "backbone.pretrained=false", *ONE)
    assert results["status"] == "ok" and results["epochs"] == 1


@pytest.mark.parametrize("name", [n for n in list_choices("logger") if n != "wandb"])
def test_loggers(start, name):
    """W&B's has a test of its own."""
    assert start(f"logger={name}", *ONE)[0]["status"] == "ok"


def test_debug(start, lite0):
    teacher = ["backbone=efficientnet_lite0", "backbone.name=tf_efficientnet_lite0.in1k", "backbone.pretrained=true"]
    results, _ = start("+debug=cpu", *teacher, "batch_size=2")
    assert (results["status"], results["image_size"]) == ("ok", 64) and results["weights"].startswith("package:")


def test_recipes_belong_to_a_model_and_a_data_set():
    for path in (CONF / "recipe").glob("*.yaml"):
        model, _, dataset = path.stem.partition("_")
        assert model in list_choices("model") and dataset in list_choices("dataset")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_data_sets_of_other_layouts(start, tmp_path, name):
    """Each layout, tiny and faithful, through a whole run."""
    category = LAYOUTS[name](tmp_path / name)
    every = ["dataset.every=1"] if name == "stc" else []
    results, _ = start(f"dataset={name}", f"dataset.root={tmp_path / name}", f"category={category}", *every, *ONE)
    assert results["status"] == "ok" and results["dataset"] == name and results["pro"] is not None


def test_videos_as_they_are_downloaded(start, tmp_path):
    pytest.importorskip("av", reason="needs kdad[video]")
    root = stc_with_videos(tmp_path / "stc")
    results, _ = start("dataset=stc", f"dataset.root={root}", "category=all", "dataset.every=1", *ONE)
    assert results["status"] == "ok" and results["n_train"] == 40 and results["pro"] is not None


@pytest.mark.parametrize("name", [name for name in list_choices("dataset") if name not in {**LAYOUTS, **WRITERS}])
def test_data_sets(start, tmp_path, tiny_mvtec, name):
    """Each layout, tiny and faithful, through a whole run."""
    generator = np.random.default_rng(0)
    root, square = tmp_path / name, np.zeros((70, 70), np.uint8)
    square[20:40, 30:50] = 255

    def image():
        return generator.integers(60, 120, (70, 70), dtype=np.uint8)

    overrides = {
        "mvtec": [f"dataset.root={tiny_mvtec}", "category=tile"],
        "demo": ["category=brick", f"dataset.root={tmp_path / 'written'}", "trainer.limit_test_batches=16"],
        "mtd": [f"dataset.root={root}", "category=all"],
        "folder": [f"dataset.root={root}", "category=null", "dataset.masks=masks"],
    }
    for i in range(8):
        save(root / "MT_Free/Imgs" / f"{i}.jpg", image())
        save(root / "MT_Free/Imgs" / f"{i}.png", square * 0)
        save(root / "MT_Crack/Imgs" / f"{i}.jpg", image() + square // 2)
        save(root / "MT_Crack/Imgs" / f"{i}.png", square)
        save(root / "normal" / f"{i}.png", image())
        save(root / "anomalous" / f"{i}.bmp", image() + square // 2)
        save(root / "masks" / f"{i}.png", square)
    results, _ = start(f"dataset={name}", *overrides[name], *ONE)
    assert results["status"] == "ok" and results["dataset"] == name and results["pro"] is not None
