"""What all data sets share: refusing bad input early, decoding once, splits and loaders.

A layout is a subclass that lists categories and samples; see `mvtec.py` for a short one.
"""

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from kdad.cache import ArrayStore
from kdad.data.augmentation import AUGMENTATIONS
from kdad.data.decoding import decode
from kdad.data.download import Archive, fetch
from kdad.data.images import Look, MaskFacts, anomalous_pixels, look, mask_values, read_image, resized_mask
from kdad.data.loading import Pool, Split, ordered_loader, train_loader
from kdad.data.samples import Sample, copies, split_order, training_parts
from kdad.errors import UserError

log = logging.getLogger(__name__)


class AnomalyDataModule(pl.LightningDataModule):
    """Train on normal images, test on both; everything decoded once and kept in memory as uint8.

    `val_fraction` of the training images is held out to validate on. Where a data set brings validation images of
    its own, it is these, whatever val_fraction is: nothing is held out then, and they are never trained on.
    `official` says how many images a category should have, {category: {train|validation|test: n}}: other numbers
    warn. `download` fetches a missing data set where its terms allow that. `augment` names how training
    images alone are changed, one of `augmentation.AUGMENTATIONS`.

    After `check()`: train_samples, val_samples, test_samples, has_masks, and in `facts` n_train,
    n_val, n_test, n_duplicates (test images that are copies of training images). After `setup()`
    also n_vanished_masks, n_nonbinary_masks, n_empty_masks.

    Several processes: the loaders share out the images themselves, so the trainer needs
    `use_distributed_sampler=False`.
    """

    layout: str  # folders below root, for error messages
    obtain: str  # where the data set comes from, and its licence
    default_category: str | None = None
    mask_kind: str = "binary"  # how masks are read: see `images.anomalous_pixels`
    counted: str = "images"  # what the official counts are of
    archive: Archive | None = None  # what `download` fetches; None where a form or a licence stands before it

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
        augment: str = "none",
        download: bool = False,
        official: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        super().__init__()
        for key, value in {"image_size": image_size, "batch_size": batch_size}.items():
            if value < 1:
                raise UserError(f"{key} is {value}: it must be at least 1")
        if not 0 <= val_fraction < 1:
            raise UserError(f"val_fraction is {val_fraction}: it must be at least 0 and below 1")
        if not 0 < train_fraction <= 1:
            raise UserError(f"train_fraction is {train_fraction}: it must be above 0 and at most 1")
        if augment not in AUGMENTATIONS:
            raise UserError(f"dataset.augment is {augment}: give one of {', '.join(AUGMENTATIONS)}")
        self.name = name
        self.root = Path(root).expanduser().absolute()
        self.category = self.default_category if category is None else str(category)
        self.image_size, self.batch_size = image_size, batch_size
        self.val_fraction, self.train_fraction = val_fraction, train_fraction
        self.split_seed, self.seed, self.augment = split_seed, seed, augment
        self.download, self.official = download, dict(official or {})
        for key, counts in self.official.items():
            if unknown := set(counts) - {"train", "validation", "test"}:
                raise UserError(f"dataset.official.{key}: no part {min(unknown)}; it has train, validation and test")
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

    # What a layout may change: the first where it brings normal images to validate on, the others where an
    # image or a mask is not a file of its own

    def find_validation(self) -> list[Sample]:
        return []

    def read_image(self, sample: Sample) -> Tensor:
        """uint8 (3,image_size,image_size). Raises UserError where it cannot be read."""
        return read_image(sample.path, self.image_size)

    def mask_values(self, sample: Sample) -> np.ndarray:
        """(H,W), as stored. Raises UserError where they cannot be read."""
        return mask_values(sample.mask)

    def absent_masks(self) -> Path | None:
        """The folder of all masks of this category where the set has one and it is not there: image metrics only."""
        return None

    def version(self, sample: Sample) -> tuple[int, ...]:
        """What tells whether the image was changed since it was cached; st_ctime_ns, that another took its name."""
        status = sample.path.stat()
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def copies(self, train: Sequence[Sample], test: Sequence[Sample]) -> list[tuple[Path, Path]]:
        """(test image, training image that it is an exact copy of)."""
        return copies(train, test)

    def look(self, sample: Sample) -> Look:
        """The image's size and mode, quickly. Raises UserError where it is damaged."""
        return look(sample.path)

    # Checking

    def prepare_data(self) -> None:
        """Download, where asked to and missing. Raises UserError where it fails or must be done by hand."""
        if not self.download or (self.root.is_dir() and any(self.root.iterdir())):
            return
        if self.archive is None:
            raise UserError(
                f"data set {self.name} is not downloaded by kdad: {self.obtain}. Get it there and unpack it into "
                f"{self.root}, or say where it is: dataset.root=<folder>"
            )
        fetch(self.archive, self.root)

    def check_root(self) -> None:
        """Raises UserError where the data set's folder is missing."""
        self.prepare_data()
        if not self.root.is_dir():
            raise UserError(
                f"data set {self.name}: no folder {self.root}. dataset.root=<folder> says where it is; KDAD_DATA "
                f"sets the parent of the default. Expected below it: {self.layout}. {self.obtain}."
                + (" dataset.download=true downloads it." if self.archive else "")
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
        (train, test), own = self.find_samples(), self.find_validation()
        for part, samples in {"training": train, "test": test}.items():
            if not samples:
                raise UserError(
                    f"data set {self.name}, category {self.category}: no {part} images in {self.root}. "
                    f"Expected: {self.layout}"
                )
        self.has_masks = any(sample.mask is not None for sample in test)
        if self.has_masks:
            self._check_masks(test)
        elif folder := self.absent_masks():
            log.warning("data set %s, category %s: no folder %s: image metrics only", self.name, self.category, folder)
        if self.val_fraction and len(train) == 1 and not own:
            raise UserError(
                f"data set {self.name}, category {self.category}: {train[0].path} is the only training image and "
                f"val_fraction is {self.val_fraction}: nothing would be left to train on. val_fraction=0 trains on it"
            )
        order = split_order(train, self.root, self.split_seed)
        own = split_order(own, self.root, self.split_seed)
        kept, held_out = training_parts(order, self.val_fraction, self.train_fraction, own)
        pairs = self.copies(kept + held_out, test)
        self.train_samples, self.val_samples, self.test_samples = sorted(kept), sorted(held_out), test
        self.facts |= {
            "n_train": len(kept), "n_val": len(held_out), "n_test": len(test), "n_duplicates": len(pairs),
        }  # fmt: skip
        self._warn(pairs)
        if differs := self.unofficial({"train": len(train), "validation": len(own), "test": len(test)}):
            log.warning("data set %s, category %s: %s", self.name, self.category, differs)

    def unofficial(self, counts: Mapping[str, int]) -> str:
        """How many of which part there are and should be, where these differ; else empty. counts: of images."""
        expected = self.official.get(self.category, {}).items()
        differ = ((counts[part], part, n) for part, n in expected if counts[part] != n)
        return "; ".join(f"{found} {part} {self.counted}, officially {n}" for found, part, n in differ)

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
        missing = [sample for sample in anomalous if sample.mask is None or not sample.mask.exists()]
        if missing:
            raise UserError(
                f"no mask {missing[0].mask or 'file'} for the anomalous image {missing[0].path} "
                f"({len(missing)} of {len(anomalous)} are missing)"
            )

    # Decoding

    def setup(self, stage: str | None = None) -> None:
        """Decode everything, test images too: a damaged file is refused before training, not after it."""
        if self._splits:
            return
        if not self.test_samples:
            self.check()
        self.pools, self._splits = decode(self)
        self.pools[0].cacheable = self.augment == "none"

    def anomalous_pixels(self, sample: Sample) -> tuple[np.ndarray, bool]:
        """(bool (H,W) at the image's own size, whether the mask has grey levels). Raises UserError on a bad mask."""
        return anomalous_pixels(self.mask_values(sample), self.mask_kind, sample.mask, sample.path)

    def read_mask(self, sample: Sample) -> tuple[Tensor, MaskFacts]:
        """bool (image_size,image_size). Raises UserError on a bad mask."""
        anomalous, nonbinary = self.anomalous_pixels(sample)
        return resized_mask(anomalous, self.image_size, nonbinary)

    # Loaders

    def train_dataloader(self) -> DataLoader:
        return train_loader(self._splits["train"], self.batch_size, self.seed, AUGMENTATIONS[self.augment])

    def val_dataloader(self) -> DataLoader | list[Any]:
        """An empty list, which Lightning takes for "no validation", where there is no such part."""
        return ordered_loader(self._splits["val"], self.batch_size) if self.val_samples else []

    def test_dataloader(self) -> DataLoader:
        return ordered_loader(self._splits["test"], self.batch_size)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()
