"""Nothing is computed twice, and what is cached is what would have been computed."""

import json
import logging
import os
import subprocess
import sys
import threading

import hydra
import numpy as np
import pytest
import torch

from kdad.cache import main
from kdad.engine.build import build
from kdad.engine.features import attach_features
from kdad.errors import UserError
from kdad.settings.compose import CONF
from kdad.storage import cache
from kdad.storage.cache import Array, ArrayStore
from kdad.teacher import Teacher
from tests.end_to_end.test_trust import weights

ARRAYS = [Array(("test", i), (10, 3), "float32", f"array {i}") for i in range(2)]
VALUES = [np.arange(30, dtype=np.float32).reshape(10, 3) + 100 * i for i in range(2)]


@pytest.fixture(autouse=True)
def empty_memory():
    cache._MEMORY.clear()
    yield
    cache._MEMORY.clear()


def produce(wanted, calls=None):
    if calls is not None:
        calls.append(list(wanted))
    for start in (0, 4, 8):
        yield [VALUES[i][start : start + 4] for i in wanted]


def same(tensors):
    return all(np.array_equal(t.numpy(), v) for t, v in zip(tensors, VALUES, strict=True))


@pytest.mark.parametrize("storage", ["auto", "memory", "disk"])
def test_built_once_then_found(tmp_path, storage):
    calls = []
    store = ArrayStore(storage, folder=tmp_path)
    assert same(store.fetch(ARRAYS, lambda w: produce(w, calls)))
    later = ArrayStore(storage, folder=tmp_path)
    assert same(later.fetch(ARRAYS, lambda w: produce(w, calls)))
    assert calls == [[0, 1]]
    assert store.report == {"storage": storage.replace("auto", "memory"), "bytes": 240, "hits": 0, "misses": 2}
    assert later.report["hits"] == 2 and later.report["misses"] == 0


def test_only_what_is_missing_is_asked_for(tmp_path):
    calls = []
    ArrayStore("memory").fetch(ARRAYS[1:], lambda w: produce([1], calls))
    assert same(ArrayStore("memory").fetch(ARRAYS, lambda w: produce(w, calls)))
    assert calls == [[1], [0]]


def test_auto_goes_from_memory_to_disk_to_nowhere(tmp_path, caplog):
    small, large = 100 / cache.GB, 1.0
    found = ArrayStore("auto", memory_gb=small, disk_gb=large, folder=tmp_path)
    assert same(found.fetch(ARRAYS, produce)) and found.report["storage"] == "disk"
    nowhere = ArrayStore("auto", memory_gb=small, disk_gb=small, folder=tmp_path / "other")
    with caplog.at_level(logging.WARNING):
        assert nowhere.fetch(ARRAYS, produce) is None
    assert nowhere.report["storage"] == "streamed" and "beyond the cache's budget" in caplog.text
    assert ArrayStore("off").fetch(ARRAYS, produce) is None


def test_budgets_let_go_of_the_least_recently_used(tmp_path):
    budget = 250 / cache.GB
    others = [Array(("other", i), (10, 3), "float32", "other") for i in range(2)]
    ArrayStore("memory", memory_gb=budget).fetch(ARRAYS, produce)
    ArrayStore("memory", memory_gb=budget).fetch(others, produce)
    assert set(cache._MEMORY) == {a.key for a in others}
    budget = 400 / cache.GB  # a file has a header of 128 bytes
    store = ArrayStore("disk", disk_gb=budget, folder=tmp_path)
    store.fetch(ARRAYS, produce)
    for array in ARRAYS:
        os.utime(store._locate(array), (1, 1))
    store.fetch(others, produce)
    assert {p.stem for p in store.folder.glob("*.npy")} == {a.key for a in others}


def test_a_full_disk_falls_back_with_a_warning(tmp_path, monkeypatch, caplog):
    def full(*args, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    store = ArrayStore("disk", folder=tmp_path)
    assert store.fetch(ARRAYS, produce) is None
    assert store.report["storage"] == "streamed" and "No space left on device" in caplog.text
    assert list(store.folder.iterdir()) == []


def test_a_builder_that_dies_half_way_leaves_nothing_that_is_believed(tmp_path):
    def dies(wanted):
        yield [VALUES[i][:4] for i in wanted]
        raise KeyboardInterrupt

    store = ArrayStore("disk", folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.fetch(ARRAYS, dies)
    assert list(store.folder.iterdir()) == []
    code = (
        "import os, sys, numpy as np; from kdad.storage.cache import Array, ArrayStore\n"
        "def dies(w):\n    yield [np.zeros((4, 3), 'float32')] * len(w)\n    os.kill(os.getpid(), 9)\n"
        "ArrayStore('disk', folder=sys.argv[1]).fetch([Array(('test', i), (10, 3), 'float32', '') for i in range(2)], dies)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert len(list(store.folder.glob(".building.*"))) == 2 and not list(store.folder.glob("*.npy"))
    for left in store.folder.glob(".building.*"):
        os.utime(left, (1, 1))
    assert same(ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, produce))
    assert not list(store.folder.glob(".building.*"))  # swept away


def test_several_builders_at_once(tmp_path):
    gate, found = threading.Barrier(4), []

    def job():
        def together(wanted):
            gate.wait()
            yield from produce(wanted)

        found.append(ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, together))

    threads = [threading.Thread(target=job) for _ in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert len(found) == 4 and all(same(f) for f in found)
    assert len(list((tmp_path / "arrays").glob("*.npy"))) == 2 and not list((tmp_path / "arrays").glob(".building.*"))


def test_list_and_clear(tmp_path, capsys):
    ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, produce)
    main(["list", "--folder", str(tmp_path)])
    out = capsys.readouterr().out
    assert "array 0" in out and "array 1" in out and "2 arrays" in out
    main(["clear", "--folder", str(tmp_path)])
    assert "Removed 2 arrays" in capsys.readouterr().out and not (tmp_path / "arrays").exists()


def test_what_a_job_holds_in_memory_counts_until_it_ends(tmp_path):
    """Two arrays of 120 bytes, each within the budget: the second goes to disk, and the first is not let go."""
    budget = 200 / cache.GB
    store = ArrayStore("auto", memory_gb=budget, folder=tmp_path)
    first, second = (store.fetch(ARRAYS[i : i + 1], lambda w, i=i: produce([i]))[0] for i in range(2))
    assert same([first, second]) and set(cache._MEMORY) == {ARRAYS[0].key}
    assert store.report == {"storage": "memory, disk", "bytes": 240, "hits": 0, "misses": 2}
    later = ArrayStore("auto", memory_gb=budget, folder=tmp_path)
    assert same(later.fetch(ARRAYS, produce)) and later.report["hits"] == 2


@pytest.mark.parametrize("key", ["memory_gb", "disk_gb"])
@pytest.mark.parametrize("value", ["4", -1, float("nan"), True])
def test_budgets_are_numbers(key, value):
    with pytest.raises(UserError, match=f"cache.{key}="):
        ArrayStore(**{key: value})


def test_a_damaged_file_is_computed_anew(tmp_path, caplog):
    store = ArrayStore("disk", folder=tmp_path)
    store.fetch(ARRAYS, produce)
    for array, content in zip(ARRAYS, (store._locate(ARRAYS[0]).read_bytes()[:-10], b""), strict=True):
        store._locate(array).write_bytes(content)
    later = ArrayStore("disk", folder=tmp_path)
    assert same(later.fetch(ARRAYS, produce)) and later.report["misses"] == 2
    assert caplog.text.count("computing it anew") == 2
    assert ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, lambda w: pytest.fail("not kept")) is not None


def test_other_jobs_may_remove_files_at_any_time(tmp_path, caplog):
    store = ArrayStore("disk", folder=tmp_path)
    store.folder.mkdir()
    (store.folder / "gone.npy").symlink_to("nowhere")  # listed, but no longer there when it is looked at
    (store.folder / ".building.gone").symlink_to("nowhere")
    kept = store.fetch(ARRAYS, produce)
    main(["clear", "--folder", str(tmp_path)])
    assert same(kept)  # mapped, so still whole

    def cleared_meanwhile(wanted):
        yield from produce(wanted)
        main(["clear", "--folder", str(tmp_path)])

    other = ArrayStore("disk", folder=tmp_path)
    assert other.fetch(ARRAYS, cleared_meanwhile) is None and other.report["storage"] == "streamed"
    assert "cannot cache array 0" in caplog.text
    (tmp_path / "file").write_text("")
    assert ArrayStore("disk", folder=tmp_path / "file").fetch(ARRAYS, produce) is None  # no folder can be made there


def test_clear_removes_nothing_else(tmp_path):
    ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, produce)
    (tmp_path / "arrays" / "mine.csv").write_text("1")
    main(["clear", "--folder", str(tmp_path)])
    assert [p.name for p in (tmp_path / "arrays").iterdir()] == ["mine.csv"]


def test_an_upgrade_lets_go_of_what_older_code_computed(tmp_path, monkeypatch):
    ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, produce)
    monkeypatch.setattr(cache, "CODE", ("later",))
    later = ArrayStore("disk", folder=tmp_path)
    assert same(later.fetch(ARRAYS, produce)) and later.report["misses"] == 2


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
    """14 clean images once, and each epoch's 8 noisy ones as they come; the same weights without a cache."""
    _, cached = start("model=noisy", "trainer.max_epochs=3", folder="cached")
    assert sum(forwards) == 14 + 3 * 8
    _, computed = start("model=noisy", "trainer.max_epochs=3", "cache.storage=off", folder="computed")
    assert sum(forwards) == 14 + 3 * 8 + 3 * (8 + 8) + 6
    for key, trained in weights(cached).items():
        torch.testing.assert_close(weights(computed)[key], trained, rtol=1e-4, atol=1e-6)


def test_without_a_cache_every_epoch_asks_the_teacher(start, forwards):
    start("model=rd", "trainer.max_epochs=3", "cache.storage=off")
    assert sum(forwards) == 3 * 8 + 6


def test_the_same_bits_whichever_storage_serves(start, tmp_path):
    disk = ["cache.storage=disk", f"cache.folder={tmp_path / 'cache'}"]
    runs = {
        "memory": start("model=rd", "trainer.max_epochs=2", "cache.storage=memory", folder="memory"),
        "built": start("model=rd", "trainer.max_epochs=2", *disk, folder="built"),
        "mapped": start("model=rd", "trainer.max_epochs=2", *disk, folder="mapped"),
    }
    assert [r["cache_storage"] for r, _ in runs.values()] == ["memory", "disk", "disk"]
    assert runs["mapped"][0]["cache_misses"] == 0
    assert len({(folder / "scores.csv").read_bytes() for _, folder in runs.values()}) == 1


@pytest.mark.parametrize("model", ["rd", "stpm"])
def test_cached_and_fresh_features_agree(tiny_mvtec, model):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(
            "run",
            [f"model={model}", "dataset=mvtec", f"dataset.root={tiny_mvtec}", "category=tile", "backbone=resnet18",
             "backbone.pretrained=false", "image_size=64", "batch_size=4", "cache.storage=memory"],
        )  # fmt: skip
    data, detector = build(cfg)
    attach_features(detector, data, data.store, torch.device("cpu"))
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
    results, folder = start("model=rd")
    written = json.loads((folder / "results.json").read_text())
    assert written == results
    # uint8 images of 64 px, float32 features at strides 4, 8 and 16, of 14 images.
    images, features = 64 * 64 * 3, 4 * (64 * 16**2 + 128 * 8**2 + 256 * 4**2)
    assert written["cache_bytes"] == 14 * (images + features)
