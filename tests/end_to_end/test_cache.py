"""Nothing is computed twice, and what is cached is what would have been computed."""

import json

import hydra
import pytest
import torch

from kdad.engine.build import build
from kdad.engine.features import attach_features
from kdad.settings.compose import CONF
from kdad.storage import cache
from kdad.teacher import Teacher
from tests.end_to_end.test_trust import weights


@pytest.fixture(autouse=True)
def empty_memory():
    cache._MEMORY.clear()
    yield
    cache._MEMORY.clear()


# In runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def forwards(monkeypatch):
    """Counts the images that go through any teacher's training or test passes, not through the probe of shapes."""
    counted, forward = [], Teacher.forward

    def counting(self, images):
        counted.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Teacher, "forward", counting)
    return counted


def test_a_sweep_of_detectors_pays_for_the_teacher_once(start, forwards):
    """14 images: 8 normal ones, whichever part of them validates, and 6 test images."""
    first, _ = start("model=rd", "trainer.max_epochs=3", folder="a")
    assert sum(forwards) == 14
    later = [
        start("model=stpm", "val_fraction=0.25", "optimizer.lr=0.01", folder="b")[0],
        start("model=rd", "seed=0", folder="c")[0],
    ]
    assert sum(forwards) == 14
    assert first["cache_misses"] == 8 and first["cache_storage"] == "memory"  # 2 sets of images, 2 x 3 levels
    assert all(r["cache_misses"] == 0 and r["cache_hits"] == 8 for r in later)


def test_a_detector_that_changes_its_images_is_given_cached_features_of_the_clean_ones(start, forwards):
    """14 clean images once, and each epoch's 8 noisy ones as they come; the same weights without a cache.

    One more shows beforehand whether a batch of one image can be trained on.
    """
    _, cached = start("model=noisy", "trainer.max_epochs=3", folder="cached")
    assert sum(forwards) == 1 + 14 + 3 * 8
    _, computed = start("model=noisy", "trainer.max_epochs=3", "cache.storage=off", folder="computed")
    assert sum(forwards) == 1 + 14 + 3 * 8 + 1 + 3 * (8 + 8) + 8 + 6  # 8 for the thresholds
    for key, trained in weights(cached).items():
        torch.testing.assert_close(weights(computed)[key], trained, rtol=1e-4, atol=1e-6)


def test_without_a_cache_every_epoch_asks_the_teacher(start, forwards):
    start("model=rd", "trainer.max_epochs=3", "cache.storage=off")
    assert sum(forwards) == (3 + 1) * 8 + 6


def test_the_same_bits_whichever_storage_serves(start, tmp_path):
    disk = ["cache.storage=disk", f"cache.folder={tmp_path / 'cache'}"]
    runs = {
        "memory": start("model=rd", "trainer.max_epochs=2", "cache.storage=memory", folder="memory"),
        "built": start("model=rd", "trainer.max_epochs=2", *disk, folder="built"),
        "found": start("model=rd", "trainer.max_epochs=2", *disk, folder="found"),
    }
    assert [r["cache_storage"] for r, _ in runs.values()] == ["memory", "disk", "disk"]
    assert runs["found"][0]["cache_misses"] == 0
    assert len({(folder / "scores.csv").read_bytes() for _, folder in runs.values()}) == 1


@pytest.mark.parametrize("tiles", [[], ["tiling.size=40"]])
def test_the_same_bits_where_neither_memory_nor_disk_has_room(start, tiles):
    """Images and masks are decoded again for each batch."""
    kept, kept_folder = start("model=rd", "cache.storage=off", *tiles, folder="kept")
    made, made_folder = start("model=rd", "cache.storage=off", "cache.memory_gb=0", *tiles, folder="made")
    assert (kept_folder / "scores.csv").read_bytes() == (made_folder / "scores.csv").read_bytes()
    assert (kept["pixel_auroc"], kept["pro"], kept["loss"]) == (made["pixel_auroc"], made["pro"], made["loss"])


@pytest.mark.parametrize("name", ["noise", "rotate"])
def test_a_corruption_of_what_is_not_in_memory_is_the_same(start, name):
    found = [
        start("model=rd", "cache.storage=off", f"cache.memory_gb={budget}", f"corruption={name}", folder=str(budget))[0]
        for budget in (4, 0)
    ]
    assert found[0]["pixel_auroc"] == found[1]["pixel_auroc"] and found[0]["image_auroc"] == found[1]["image_auroc"]


@pytest.mark.parametrize("model", ["rd", "stpm"])
def test_cached_and_fresh_features_agree(tiny_mvtec, model):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(
            "run",
            [f"model={model}", "dataset=mvtec", f"dataset.root={tiny_mvtec}", "category=tile", "backbone=resnet18", "backbone.name=test_resnet.r160_in1k",
             "backbone.pretrained=false", "image_size=64", "batch_size=4", "cache.storage=memory"],
        )  # fmt: skip
    data, detector = build(cfg)
    attach_features(detector, data.pools, data.store, torch.device("cpu"))
    detector.train()
    for batch in data.train_dataloader():
        plain = {key: value for key, value in batch.items() if key != "features"}
        for cached, fresh in zip(detector.teacher_features(batch), detector.teacher_features(plain), strict=True):
            scale = fresh.abs().max()
            assert (cached - fresh).abs().max() / scale < 1e-6
        losses = [detector.training_loss(b)["loss"].item() for b in (batch, plain)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_other_weights_levels_or_normalisation_are_other_features(start):
    def misses(*overrides, folder):
        return start("model=rd", *overrides, folder=folder)[0]["cache_misses"]

    assert misses(folder="a") == 8
    assert misses("seed=1", folder="b") == 6  # other random weights: same images, new features
    assert misses("normalisation=none", folder="c") == 6
    assert misses("levels=[1,2]", folder="d") == 0  # each level is kept on its own
    assert misses("levels=[2,3]", "image_size=32", folder="e") == 6


def test_networks_of_the_same_weights_are_told_apart(start):
    """The two differ in padding and in batch norm's epsilon, in no tensor."""
    lite = ["levels=[1,2]", "normalisation=imagenet"]
    first, _ = start("model=rd", *lite, "backbone.name=tf_efficientnet_lite0", folder="a")
    second, _ = start("model=rd", *lite, "backbone.name=efficientnet_lite0", folder="b")
    assert first["weights_fingerprint"] == second["weights_fingerprint"]
    assert second["cache_misses"] == 4


def test_the_report_is_in_the_results(start):
    results, folder = start("model=rd", "backbone.name=resnet18.tv_in1k")
    written = json.loads((folder / "results.json").read_text())
    assert written == results
    # uint8 images of 64 px, float32 features at strides 4, 8 and 16, of 14 images.
    images, features = 64 * 64 * 3, 4 * (64 * 16**2 + 128 * 8**2 + 256 * 4**2)
    assert written["cache_bytes"] == 14 * (images + features)
