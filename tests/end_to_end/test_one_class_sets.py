"""One-class and medical data sets, each as a tiny copy of its layout, through whole runs."""

import csv
import inspect

import pytest
import torch

from kdad.storage import cache
from tests.one_class import WRITERS, write_head_ct, write_mnist

ONE = ["trainer.limit_train_batches=1", "pictures=2", "optimizer.lr=0.001"]


@pytest.mark.parametrize("name", WRITERS)
def test_data_sets(start, tmp_path, monkeypatch, name):
    write, category = WRITERS[name]
    write(tmp_path / name, *([monkeypatch] if "monkeypatch" in inspect.signature(write).parameters else []))
    own = ["dataset.n_normal_test=3"] if name == "head_ct" else []
    results, folder = start(f"dataset={name}", f"dataset.root={tmp_path / name}", f"category={category}", *own, *ONE)
    assert (results["status"], results["dataset"]) == ("ok", name)
    assert 0 <= results["image_auroc"] <= 1 and results["pro"] is None and "no masks" in results["pro_reason"]
    assert len(list((folder / "maps").iterdir())) == 2
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == results["n_test"] and {row["label"] for row in rows} == {"0", "1"}


def test_images_without_files_have_names_and_are_cached(start, tmp_path):
    write_mnist(tmp_path / "mnist")
    ask = ["dataset=mnist", f"dataset.root={tmp_path / 'mnist'}", "category=eight", "cache.storage=memory", *ONE]
    cache._MEMORY.clear()
    first, folder = start(*ask, folder="a")
    again, _ = start(*ask, folder="b")
    other, _ = start(*ask, "category=3", folder="c")
    assert (folder / "scores.csv").read_text().splitlines()[1].startswith("test/00000,1,")
    assert first["category"] == "8" and first["image_auroc"] == again["image_auroc"]
    assert (first["cache_misses"], again["cache_misses"]) == (8, 0)
    assert other["cache_misses"] == 4  # images and three levels of another class; the test images are the same
    cache._MEMORY.clear()


def test_augmented_runs_resume_to_the_same_bits_and_ask_the_teacher_anew(start, tmp_path):
    write_head_ct(tmp_path / "head_ct")
    ask = ["dataset=head_ct", f"dataset.root={tmp_path / 'head_ct'}", "category=null", "dataset.n_normal_test=2"]
    ask += ["dataset.augment=rotate_scale", "checkpoint_seconds=0", "optimizer.lr=0.001"]

    def weights(folder):
        return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]

    whole, folder = start(*ask, "trainer.max_epochs=2", folder="whole")
    start(*ask, "trainer.max_epochs=1", folder="part")
    part = tmp_path / "part"
    _, resumed = start(*ask, "trainer.max_epochs=2", f"ckpt_path={part / 'checkpoints/last.ckpt'}", folder="part")
    assert all(torch.equal(value, weights(resumed)[key]) for key, value in weights(folder).items())
    plain, other = start(*ask, "dataset.augment=none", "trainer.max_epochs=2", folder="plain")
    assert any(not torch.equal(value, weights(other)[key]) for key, value in weights(folder).items())
    assert whole["cache_bytes"] < plain["cache_bytes"]  # of the test images alone
