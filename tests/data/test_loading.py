import logging
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from kdad.data import MVTec, Sample
from kdad.data.images import read_image
from kdad.data.loading import InOrder, Pool, Split, TrainOrder, make_ordered_loader, make_train_loader
from kdad.data.samples import order_samples
from kdad.errors import UserError


@pytest.fixture
def tiny(mvtec_root, options):
    def build(**changes) -> MVTec:
        data = MVTec(**options(mvtec_root, category="tile", **changes))
        data.setup()
        return data

    return build


def split_of(n: int) -> Split:
    pool = Pool(torch.zeros(n, 2, 2, 3, dtype=torch.uint8))
    return Split(pool, torch.arange(n), torch.zeros(n, dtype=torch.long))


# Splits


def test_split_order_ignores_the_order_listed_and_the_place_of_the_root(tmp_path):
    names = [f"train/good/{i:03}.png" for i in range(50)]
    here = order_samples([Sample(tmp_path / name, 0, "good") for name in names], tmp_path, 0)
    there = order_samples([Sample(tmp_path / "a" / name, 0, "good") for name in reversed(names)], tmp_path / "a", 0)
    other = order_samples([Sample(tmp_path / name, 0, "good") for name in names], tmp_path, 1)
    assert [sample.path.name for sample in here] == [sample.path.name for sample in there]
    assert sorted(other) == sorted(here) and other != here != sorted(here)


def test_validation_part_depends_on_split_seed_only(tiny):
    base = tiny(val_fraction=0.3)
    reseeded, resplit = tiny(val_fraction=0.3, seed=7), tiny(val_fraction=0.3, split_seed=1)
    assert base.val_samples == reseeded.val_samples and base.train_samples == reseeded.train_samples
    assert base.val_samples != resplit.val_samples
    everything = tiny().train_samples
    assert len(everything) == 10 and sorted(base.train_samples + base.val_samples) == everything
    assert (base.facts["n_train"], base.facts["n_val"], base.facts["n_test"]) == (7, 3, 5)
    assert len(tiny(val_fraction=0.01).val_samples) == 1 and len(tiny(val_fraction=0.99).train_samples) == 1


def test_train_fraction_keeps_that_part_of_training_and_validation_nested(tiny):
    parts = [tiny(val_fraction=0.4, train_fraction=fraction) for fraction in (0.01, 0.5, 1.0)]
    assert [(data.facts["n_train"], data.facts["n_val"]) for data in parts] == [(1, 1), (3, 2), (6, 4)]
    for smaller, larger in pairwise(parts):
        assert set(smaller.train_samples) < set(larger.train_samples)
        assert set(smaller.val_samples) < set(larger.val_samples)
        assert smaller.test_samples == larger.test_samples
    assert tiny(val_fraction=0.4, train_fraction=0.5, seed=7).train_samples == parts[1].train_samples
    assert tiny(val_fraction=0.4, train_fraction=0.5, split_seed=1).train_samples != parts[1].train_samples
    assert (len(tiny(train_fraction=0.05).train_samples), tiny(train_fraction=0.3).facts["n_val"]) == (1, 0)


# Order


def test_training_order_is_a_permutation_pure_in_seed_and_epoch():
    def order(seed: int, epoch: int, n: int = 20) -> list[int]:
        sampler = TrainOrder(n, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0, 0)) == list(range(20))
    torch.manual_seed(1)
    np.random.seed(1)
    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_processes_share_out_the_images():
    parts = [list(TrainOrder(11, 0, rank, 3)) for rank in range(3)]
    assert [len(part) for part in parts] == [len(TrainOrder(11, 0, 0, 3))] * 3 == [3, 3, 3]
    whole = list(TrainOrder(11, 0))
    assert [index for step in zip(*parts, strict=True) for index in step] == whole[:9]
    assert sorted(index for rank in range(3) for index in InOrder(11, rank, 3)) == list(range(11))
    assert [len(InOrder(11, rank, 3)) for rank in range(3)] == [4, 4, 3]


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"), [(9, 4, [4, 4, 1]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (1, 4, [1]), (2, 1, [1, 1])]
)
def test_every_training_image_is_in_a_batch(n, batch_size, sizes):
    loader = make_train_loader(split_of(n), batch_size, seed=0)
    assert [len(batch["index"]) for batch in loader] == sizes and len(loader) == len(sizes)
    assert sum(len(batch["index"]) for batch in make_ordered_loader(split_of(n), batch_size)) == n


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(9, 4, [4, 4]), (10, 4, [4, 4, 2]), (8, 4, [4, 4])])
def test_a_last_image_alone_is_left_out_where_a_detector_cannot_take_it(n, batch_size, sizes):
    loader = make_train_loader(split_of(n), batch_size, seed=0, takes_single=False)
    assert [len(batch["index"]) for batch in loader] == sizes and len(loader) == len(sizes)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 4), (1, 1), (5, 1)])
def test_batches_of_one_image_alone_are_refused_where_a_detector_cannot_take_them(n, batch_size):
    with pytest.raises(UserError, match=f"batch_size={batch_size} with {n} training images gives batches of one"):
        make_train_loader(split_of(n), batch_size, seed=0, takes_single=False)


class EpochOrders(pl.LightningModule):
    """Writes down what Lightning feeds it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.orders: dict[int, list[int]] = {}
        self.n_val = 0

    def training_step(self, batch, _):
        self.orders.setdefault(self.current_epoch, []).extend(batch["index"].tolist())
        return self.weight * 0

    def validation_step(self, batch, _):
        self.n_val += len(batch["index"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(("val_fraction", "n_val"), [(0.0, 0), (0.3, 6)])
def test_lightning_reshuffles_every_epoch(tiny, val_fraction, n_val):
    module, data = EpochOrders(), tiny(val_fraction=val_fraction)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(max_epochs=2, accelerator="cpu", num_sanity_val_steps=0, **quiet).fit(module, datamodule=data)
    n = data.facts["n_train"]
    assert sorted(module.orders[0]) == sorted(module.orders[1]) == list(range(n))
    assert module.orders[0] != module.orders[1] and module.n_val == n_val


# Batches


def test_batch_contents(tiny):
    data = tiny(val_fraction=0.3)
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    tests = list(data.test_dataloader())
    assert set(train) == set(val) == {"image", "label", "index"} and set(tests[0]) == {*train, "mask"}
    assert train["image"].shape == (4, 3, 8, 8) and train["image"].dtype == torch.float32
    for batch in (train, val, tests[0], tests[-1]):
        assert batch["image"].is_contiguous(memory_format=torch.channels_last)
        assert batch["label"].dtype == batch["index"].dtype == torch.long
    position = int(train["index"][2])
    expected = read_image(data.train_samples[position].path, 8).float() / 255
    assert torch.equal(train["image"][2], expected) and expected.max() > 0.5

    assert torch.cat([batch["index"] for batch in tests]).tolist() == list(range(5))
    assert torch.cat([batch["label"] for batch in tests]).tolist() == [0, 0, 0, 1, 1]
    masks = torch.cat([batch["mask"] for batch in tests])
    assert masks.shape == (5, 1, 8, 8) and masks.dtype == torch.bool
    assert masks.flatten(1).sum(1).tolist() == [0, 0, 0, 16, 16]  # half by half of 8 x 8
    assert [batch["index"].tolist() for batch in data.predict_dataloader()] == [[0, 1, 2, 3], [4]]


def test_setup_decodes_once(tiny, monkeypatch):
    data = tiny()
    first = list(data.pools)
    monkeypatch.setattr("kdad.data.images.read_image", None)
    data.setup("fit")
    data.setup("test")
    assert all(a is b for a, b in zip(data.pools, first, strict=True))


def test_samples_of_mvtec(tiny):
    data = tiny()
    assert Counter((s.label, s.kind) for s in data.test_samples) == {(0, "good"): 3, (1, "scratch"): 2}
    assert data.test_samples == sorted(data.test_samples) and data.categories() == ["tile"]


def test_hidden_and_other_files_are_ignored_and_suffixes_count_in_any_case(tiny, mvtec_root, save):
    good = mvtec_root / "tile/train/good"
    (good / "000.png").rename(good / "000.PNG")
    for name in (".000.png", "notes.txt"):
        (good / name).write_text("no image")
    (mvtec_root / "tile/test/.hidden").mkdir()
    assert tiny().facts["n_train"] == 10


def test_set_without_masks(tiny, mvtec_root, caplog):
    for path in sorted((mvtec_root / "tile/ground_truth").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (mvtec_root / "tile/ground_truth").rmdir()
    data = tiny()
    assert not data.has_masks and "mask" not in next(iter(data.test_dataloader()))
    assert f"no folder {mvtec_root / 'tile/ground_truth'}: image metrics only" in caplog.text
    assert [sample.label for sample in data.test_samples] == [0, 0, 0, 1, 1]


def test_odd_masks_are_counted_and_warned_about_and_labels_stay(tiny, mvtec_root, save, caplog):
    pixels = np.zeros((16, 20), np.uint8)
    save(mvtec_root / "tile/ground_truth/scratch/000_mask.png", pixels)
    pixels[3, 3] = 255
    save(mvtec_root / "tile/ground_truth/scratch/001_mask.png", pixels)
    with caplog.at_level(logging.WARNING):
        data = tiny(image_size=4)
    assert (data.facts["n_empty_masks"], data.facts["n_vanished_masks"], data.facts["n_nonbinary_masks"]) == (1, 1, 0)
    assert len(caplog.records) == 2 and all("1 of 2 masks" in record.message for record in caplog.records)
    assert torch.cat([batch["label"] for batch in data.test_dataloader()]).tolist() == [0, 0, 0, 1, 1]
