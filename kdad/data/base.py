"""What all data sets share: refusing bad input early, decoding once, splits and loaders.

A layout is a subclass that lists categories and samples; see `mvtec.py` for a short one.
"""

import difflib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kdad.cache import Array, ArrayStore
from kdad.data.images import MaskFacts, read_image, read_mask
from kdad.data.loading import Pool, Split, ordered_loader, train_loader
from kdad.data.samples import Sample, copies, split_order, training_parts
from kdad.errors import UserError

log = logging.getLogger(__name__)


class AnomalyDataModule(pl.LightningDataModule):
    """Train on normal images, test on both; everything decoded once and kept in memory as uint8.

    After `check()`: train_samples, val_samples, test_samples, has_masks, and in `facts` n_train,
    n_val, n_test, n_duplicates (test images that are copies of training images). After `setup()`
    also n_vanished_masks, n_nonbinary_masks, n_empty_masks.

    Several processes: the loaders share out the images themselves, so the trainer needs
    `use_distributed_sampler=False`.
    """

    layout: str  # folders below root, for error messages
    obtain: str  # where the data set comes from, and its licence
    default_category: str | None = None
    binary_masks: bool = True  # masks of other than two values are refused; else cut at 127 and counted

    def __init__(
        self,
        *,
        name: str,
        root: str | os.PathLike,
        category: str | None,
        image_size: int,
        batch_size: int,
        val_fraction: float = 0.0,
        train_fraction: float = 1.0,
        split_seed: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for key, value in {"image_size": image_size, "batch_size": batch_size}.items():
            if value < 1:
                raise UserError(f"{key} is {value}: it must be at least 1")
        if not 0 <= val_fraction < 1:
            raise UserError(f"val_fraction is {val_fraction}: it must be at least 0 and below 1")
        if not 0 < train_fraction <= 1:
            raise UserError(f"train_fraction is {train_fraction}: it must be above 0 and at most 1")
        self.name = name
        self.root = Path(root).expanduser().absolute()
        self.category = self.default_category if category is None else str(category)
        self.image_size, self.batch_size = image_size, batch_size
        self.val_fraction, self.train_fraction = val_fraction, train_fraction
        self.split_seed, self.seed = split_seed, seed
        self.train_samples: list[Sample] = []
        self.val_samples: list[Sample] = []
        self.test_samples: list[Sample] = []
        self.has_masks = False
        self.facts: dict[str, int] = {}
        self.store = ArrayStore("off")  # where decoded images are kept for later jobs
        self.pools: list[Pool] = []
        self._splits: dict[str, Split] = {}

    # What a layout supplies

    def categories(self) -> list[str]:
        """Sorted. Raises UserError where the root is missing."""
        raise NotImplementedError

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        """(train, test), each sorted by path."""
        raise NotImplementedError

    # Checking

    def check_root(self) -> None:
        """Raises UserError where the data set's folder is missing."""
        self.prepare_data()
        if not self.root.is_dir():
            raise UserError(
                f"data set {self.name}: no folder {self.root}. dataset.root=<folder> says where it is; KDAD_DATA "
                f"sets the parent of the default. Expected below it: {self.layout}. {self.obtain}."
            )

    def check(self) -> None:
        """List the files and refuse bad input, without decoding any. Raises UserError."""
        categories = self.categories()
        listed = ", ".join(categories)
        if not categories:
            raise UserError(
                f"data set {self.name}: {self.root} has no category. Expected: {self.layout}. {self.obtain}."
            )
        if self.category is None:
            raise UserError(f"data set {self.name}: category=<name> is needed, one of {listed} (in {self.root})")
        if self.category not in categories:
            near = difflib.get_close_matches(self.category, categories, 1, cutoff=0.5)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(
                f"data set {self.name}: no category {self.category} in {self.root}.{hint} It has: {listed}. "
                f"dataset.root=<folder> says where others are. {self.obtain}."
            )
        train, test = self.find_samples()
        for part, samples in {"training": train, "test": test}.items():
            if not samples:
                raise UserError(
                    f"data set {self.name}, category {self.category}: no {part} images in {self.root}. "
                    f"Expected: {self.layout}"
                )
        self.has_masks = any(sample.mask is not None for sample in test)
        if self.has_masks:
            self._check_masks(test)
        if self.val_fraction and len(train) == 1:
            raise UserError(
                f"data set {self.name}, category {self.category}: {train[0].path} is the only training image and "
                f"val_fraction is {self.val_fraction}: nothing would be left to train on. val_fraction=0 trains on it"
            )
        order = split_order(train, self.root, self.split_seed)
        kept, held_out = training_parts(order, self.val_fraction, self.train_fraction)
        pairs = copies(kept + held_out, test)
        self.train_samples, self.val_samples, self.test_samples = sorted(kept), sorted(held_out), test
        self.facts |= {
            "n_train": len(kept), "n_val": len(held_out), "n_test": len(test), "n_duplicates": len(pairs),
        }  # fmt: skip
        self._warn(pairs)

    def _warn(self, pairs: list[tuple[Path, Path]]) -> None:
        """Of what may be meant, but often is not. pairs: test images and the training images they are copies of."""
        if pairs:
            log.warning(
                "data set %s: %d of %d test images are exact copies of training images; the first is %s, a copy of %s",
                self.name, len(pairs), len(self.test_samples), *pairs[0],
            )  # fmt: skip
        n_train = len(self.train_samples)
        if n_train == 1:
            log.warning("data set %s: one training image only, %s", self.name, self.train_samples[0].path)
        elif self.batch_size > n_train:
            log.warning(
                "data set %s: batch_size is %d but there are %d training images: each epoch is one batch of %d",
                self.name, self.batch_size, n_train, n_train,
            )  # fmt: skip

    def _check_masks(self, test: list[Sample]) -> None:
        anomalous = [sample for sample in test if sample.label == 1]
        missing = [sample for sample in anomalous if sample.mask is None or not sample.mask.is_file()]
        if missing:
            raise UserError(
                f"no mask {missing[0].mask} for the anomalous image {missing[0].path} "
                f"({len(missing)} of {len(anomalous)} are missing)"
            )

    # Decoding

    def setup(self, stage: str | None = None) -> None:
        """Decode everything, test images too: a damaged file is refused before training, not after it."""
        if self._splits:
            return
        if not self.test_samples:
            self.check()
        normal = sorted(self.train_samples + self.val_samples, key=lambda sample: sample.path)
        row = {sample.path: i for i, sample in enumerate(normal)}
        # Threads, since Pillow releases the interpreter lock while it decodes and resizes.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as workers:
            # One pool for training and validation: how they are divided changes nothing that is cached of them.
            self.pools = [Pool(self._read_images(part, workers)) for part in (normal, self.test_samples)]
            masks = self._read_masks(workers) if self.has_masks else None
        rows = {
            "train": (self.pools[0], [row[sample.path] for sample in self.train_samples], self.train_samples, None),
            "val": (self.pools[0], [row[sample.path] for sample in self.val_samples], self.val_samples, None),
            "test": (self.pools[1], list(range(len(self.test_samples))), self.test_samples, masks),
        }
        self._splits = {
            part: Split(pool, torch.tensor(indices, dtype=torch.long), torch.tensor([s.label for s in samples]), masks)
            for part, (pool, indices, samples, masks) in rows.items()
        }

    def _read_images(self, samples: list[Sample], workers: ThreadPoolExecutor) -> Tensor:
        """uint8 (N,H,W,3), decoded now or by an earlier job from the same files."""
        size = self.image_size
        files = [(str(sample.path), *_version(sample.path)) for sample in samples]
        what = f"{len(samples)} images of {self.name} {self.category} at {size} px"
        array = Array(("images", *files), (len(samples), size, size, 3), "uint8", what)

        def produce(_: Any) -> Iterator[list[np.ndarray]]:
            for image in workers.map(lambda sample: read_image(sample.path, size), samples):
                yield [image.permute(1, 2, 0)[None].numpy()]

        kept = self.store.fetch([array], produce)
        return kept[0] if kept else torch.from_numpy(np.concatenate([rows for (rows,) in produce(None)]))

    def _read_masks(self, pool: ThreadPoolExecutor) -> Tensor:
        """bool (n_test,1,H,W), all False for normal images; fills the counts in `facts`."""
        masks = torch.zeros(len(self.test_samples), 1, self.image_size, self.image_size, dtype=torch.bool)
        with_mask = [(i, sample) for i, sample in enumerate(self.test_samples) if sample.mask is not None]

        def read(entry: tuple[int, Sample]) -> tuple[Tensor, MaskFacts]:
            return read_mask(entry[1].mask, self.image_size, entry[1].path, self.binary_masks)

        facts = []
        for (i, _), (mask, fact) in zip(with_mask, pool.map(read, with_mask), strict=True):
            masks[i, 0] = mask
            facts.append(fact)
        meanings = {
            "vanished": f"have a region so small that nothing is left of it at {self.image_size} px",
            "nonbinary": "have grey levels; pixels above 127 count as anomalous",
            "empty": "have no anomalous pixel; their images stay anomalous, without a region",
        }
        for key, meaning in meanings.items():
            count = sum(getattr(fact, key) for fact in facts)
            self.facts[f"n_{key}_masks"] = count
            if count:
                log.warning("data set %s: %d of %d masks %s", self.name, count, len(facts), meaning)
        return masks

    # Loaders

    def train_dataloader(self) -> DataLoader:
        return train_loader(self._splits["train"], self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader | list[Any]:
        """An empty list, which Lightning takes for "no validation", where there is no such part."""
        return ordered_loader(self._splits["val"], self.batch_size) if self.val_samples else []

    def test_dataloader(self) -> DataLoader:
        return ordered_loader(self._splits["test"], self.batch_size)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()


def _version(path: Path) -> tuple[int, int]:
    """What tells whether a file was changed."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
