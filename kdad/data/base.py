"""What all data sets share: checking first, decoding once, splits and loaders.

A data set is a subclass with `find_samples` and, where it has several, `categories`; see `mtd.py` for a short one.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from kdad.data import checks, images, samples
from kdad.data.augmentation import AUGMENTATIONS
from kdad.data.decoding import decode_parts, decode_tiles, fix_rule
from kdad.data.download import Archive, fetch
from kdad.data.intensity import read_rule
from kdad.data.layout import Layout
from kdad.data.loading import Pool, make_ordered_loader, make_split, make_train_loader, spread_evenly
from kdad.data.parts import check_shots, check_studies, divide, take_shots
from kdad.data.place import Place, check_category, check_folder
from kdad.data.roi import Roi
from kdad.data.samples import Sample
from kdad.data.tiles import PictureSplit
from kdad.errors import UserError
from kdad.geometry import ImageSize, read_tiling, simplify
from kdad.storage.cache import ArrayStore

NO_TILES = {"size": None, "overlap": "auto"}


class AnomalyDataModule(Layout, pl.LightningDataModule):
    """A data set for Lightning: normal images to train on, normal and anomalous ones to test; decoded once, as uint8.

    A subclass needs `find_samples`, and may have `categories`; its attributes `layout` and `obtain` are for messages,
    `default_category` is taken where none is named, `mask_kind` says how masks are read.

    `val_fraction` of the training images is held out to validate on, `calibration_fraction` of the others to take
    thresholds from: those whose name says so, by its hash. Where a data set brings validation images of
    its own, it is these, whatever val_fraction is: nothing is held out then, and they are never trained on. `shots`
    keeps so many training images, held-out ones among them; `contamination` mixes test images in, see `parts`.
    `official` says how many images a category should have, {category: {train|validation|test: n}}: other numbers
    warn. `download` fetches a missing data set where its terms allow that. An image of more than `max_megapixels` is
    refused, since a small file can ask for all memory. `intensity` and `page`: see `intensity.Rule`. `tiling`, size and
    overlap, cuts pictures at their own size, see `geometry.read_tiling`; `roi`: see `roi.Roi`. `augment`: how
    training images are changed, one of `augmentation.AUGMENTATIONS`. `category` is empty where none was chosen.

    After `check()`: train_samples, val_samples, test_samples, has_masks, and counts in `facts`; more after `setup()`.
    Several processes: the loaders share out the images themselves, so the trainer needs
    `use_distributed_sampler=False`. Raises `UserError` for an argument outside its range.
    """

    archive: Archive | None = None  # what `download` fetches; None where a form or a licence stands before it
    name: str

    def __init__(
        self,
        *,
        name: str,
        root: str | os.PathLike,
        category: str | None,
        image_size: ImageSize,
        batch_size: int,
        val_fraction: float = 0.0,
        calibration_fraction: float = 0.0,
        train_fraction: float = 1.0,
        shots: int | None = None,
        contamination: float = 0.0,
        max_contamination: float | None = None,
        split_seed: int = 0,
        seed: int = 0,
        augment: str = "none",
        max_megapixels: float | None = 200.0,
        intensity: str = "auto",
        page: int = 0,
        tiling: Mapping[str, Any] | None = None,
        roi: str | Sequence[float] | None = None,
        download: bool = False,
        official: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        super().__init__()
        checks.check_numbers(image_size, batch_size, val_fraction, train_fraction, calibration_fraction)
        check_studies(shots, train_fraction, contamination, max_contamination)
        checks.check_augmentation(augment, AUGMENTATIONS)
        images.limit_size(max_megapixels)
        self.name = name
        self.root = Path(root).expanduser().absolute()
        self.category = self.default_category if category is None else str(category)
        self.image_size, self.batch_size = simplify(image_size), batch_size
        self.val_fraction, self.train_fraction = val_fraction, train_fraction
        self.calibration_fraction, self.shots = calibration_fraction, shots
        self.contamination, self.max_contamination = contamination, max_contamination
        self.split_seed, self.seed, self.augment, self.max_megapixels = split_seed, seed, augment, max_megapixels
        self.rule, self.tiling = read_rule(intensity, page), read_tiling(image_size=image_size, **(tiling or NO_TILES))
        self.roi = None if roi is None else Roi(roi, self.root)
        checks.check_roi(self.roi, augment)
        self.download, self.official = download, dict(official or {})
        checks.check_official(self.official)
        self.train_samples: list[Sample] = []
        self.val_samples: list[Sample] = []
        self.calibration_samples: list[Sample] = []  # normal ones that thresholds alone are taken from
        self.test_samples: list[Sample] = []
        self.has_masks = False
        self.facts: dict[str, float] = {}
        self.fingerprint = ""  # of which images are in which part
        self.trains = True  # False: only test images are needed and decoded
        self.takes_single = True  # whether the detector can train on a batch of one image
        self.store = ArrayStore("off")  # where decoded images are kept for later jobs
        self.pools: list[Pool] = []
        self.splits: dict[str, Any] = {}  # each a Split, or the test a PictureSplit

    # What a layout supplies

    def categories(self) -> list[str]:
        """Return the sorted names of the categories in `root`; of a class that does not divide its images, `all`.

        Raises `UserError` where `root` is missing.
        """
        self.check_root()
        return ["all"]

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Return two lists of samples of `self.category`: the images to train on, all normal, and those to test.

        Nothing is read but names. Images to validate on or for thresholds are taken from the first. Raises `UserError`
        of a class that has no such method of its own.
        """
        raise UserError(
            f"data set {self.name}: the class {type(self).__name__} has no method find_samples(self), which returns "
            "two lists of Sample(path, label, kind, mask): the images to train on and those to test"
        )

    # Checking

    @property
    def place(self) -> Place:
        """The name, root and layout of this data set and how to get it, for messages."""
        return Place(self.name, self.root, self.layout, self.obtain)

    def prepare_data(self) -> None:
        """Download a missing data set if asked to. Raises `UserError` where it fails or must be done by hand."""
        if not self.download or (self.root.is_dir() and any(self.root.iterdir())):
            return
        fetch(checks.require_archive(self.place, self.archive), self.root)

    def check_root(self) -> None:
        """Raise `UserError` where the data set's folder is missing, after a download if one was asked for."""
        self.prepare_data()
        check_folder(self.place, downloadable=self.archive is not None)

    def check(self) -> None:
        """List the files and check them, without decoding any. Raises `UserError` for what cannot be used."""
        if (known := self.categories()) == ["all"]:  # there is nothing to choose
            self.category = self.category or "all"
        check_category(self.place, self.category, known)
        (train, test), own = self.list_samples(), self.find_validation()
        if self.roi:
            self.roi.check()
        needed = {"training": train} if self.trains else {}
        needed |= {} if self.tests_nothing() else {"test": test}
        checks.check_parts(self.place, self.category, needed)
        self.has_masks = any(sample.mask is not None for sample in test)
        if self.has_masks:
            checks.check_masks(test)
        else:
            checks.warn_of_absent_masks(self.place, self.category, self.find_absent_masks())
        counts = {"train": len(train), "validation": len(own), "test": len(test)}
        if self.shots:
            train, own = take_shots(train, self.shots, self.root, self.split_seed), []
        if self.trains:
            check_shots(self.shots, train, self.root)
            checks.check_single(self.place, self.category, train, 0.0 if own else self.val_fraction)
        parts = divide(
            self.split_training(train, own) if train else ([], own), test, self.calibration_fraction,
            (self.contamination, self.max_contamination), self.root, self.split_seed,
        )  # fmt: skip
        pairs = self.find_copies(parts.seen, parts.test)
        self.fingerprint = parts.fingerprint(self.root, self.roi)
        self.facts |= parts.count_images() | {"n_duplicates": len(pairs)}
        checks.warn_of_copies(self.name, pairs, len(parts.test))
        if both := self.find_contradictions(parts.seen, parts.test):
            self.facts["n_normal_and_anomalous"] = len(both)
            checks.warn_of(self.name, [checks.describe_contradictions(both)])
        self.train_samples, self.val_samples, self.calibration_samples, self.test_samples = parts.sort()
        if self.trains and not self.tiling:  # of which each picture gives many
            checks.warn_of_few(self.name, self.train_samples, self.batch_size)
        if self.trains or train:
            checks.warn_of_counts(self.place, self.category, self.compare_with_official(counts))
        checks.warn_of(self.name, self.find_left_out([*train, *own, *test]))

    def list_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Return what `find_samples` does. Raises `UserError` where that is not two lists of samples."""
        found = self.find_samples()
        checks.check_samples(type(self).__name__, found)
        return found

    def list_parts(self) -> dict[str, list[str]]:
        """Return the names of the images that a detector sees before it is tested, by what they are there for."""
        parts = {"train": self.train_samples, "validation": self.val_samples, "calibration": self.calibration_samples}
        return {part: [samples.identify(s.path, self.root) for s in listed] for part, listed in parts.items()}

    def find_seen(self, seen: Iterable[str]) -> list[str]:
        """Return which test images are among the names in `seen`, of images that a detector has seen before."""
        names = set(seen)
        return [name for name in (samples.identify(s.path, self.root) for s in self.test_samples) if name in names]

    # Decoding

    def setup(self, stage: str | None = None) -> None:
        """Decode everything, test images too; where nothing is trained, these alone.

        Raises `UserError` for a damaged file: before training, not after it.
        """
        if self.splits:
            return
        if not self.fingerprint:
            self.check()
        parts = {"train": self.train_samples, "val": self.val_samples, "calibration": self.calibration_samples}
        if not self.trains:
            parts = {key: [] for key in parts}
        normal = sorted((sample for name in parts for sample in parts[name]), key=lambda sample: sample.path)
        self.rule = fix_rule(self.rule, self.train_samples if self.trains else [])
        # One pool for training and validation: how they are divided changes nothing that is cached of them.
        what = f"{self.name} {self.category}"
        if self.tiling:
            pictures = PictureSplit(self, self.test_samples, self.tiling, self.batch_size, self.has_masks)
            decoded = decode_tiles(self, self.tiling, normal, pictures, self.store, what)
        else:
            decoded = decode_parts(self, normal, self.test_samples, self.store, what, self.has_masks)
        self.facts |= decoded.facts
        checks.warn_of(self.name, decoded.said)
        self.pools = decoded.pools
        self.pools[0].cacheable = self.augment == "none" and bool(normal)
        for pool in self.pools[1:]:
            pool.cacheable = bool(self.test_samples)
        made = {name: make_split(self.pools[0], part, decoded.rows) for name, part in parts.items()}
        self.splits = {**made, "test": decoded.test}

    # Loaders

    def train_dataloader(self) -> DataLoader:
        split, augment = self.splits["train"], AUGMENTATIONS[self.augment]
        return make_train_loader(split, self.batch_size, self.seed, augment, self.takes_single)

    def val_dataloader(self) -> DataLoader | list[Any]:
        """Return a loader of the validation images, or an empty list where there are none, as Lightning wants it."""
        return make_ordered_loader(self.splits["val"], self.batch_size) if self.val_samples else []

    def find_normals(self, most: int) -> tuple[str, list[Sample], DataLoader]:
        """Return the normal images for thresholds: the name of their part, the samples, and a loader of them.

        Those held out for this alone; else those to validate on; else, at most so many, those that are trained on.
        """
        listed, part, name = self.train_samples, "train", "training"
        if self.calibration_samples or self.val_samples:
            part, name = ("calibration", "calibration") if self.calibration_samples else ("val", "validation")
            listed = self.calibration_samples or self.val_samples
        rows = spread_evenly(len(listed), most if part == "train" else len(listed))
        chosen = [listed[i] for i in rows]
        whole = PictureSplit(self, chosen, self.tiling, self.batch_size, False) if self.tiling else None
        return name, chosen, make_ordered_loader(whole or self.splits[part].take(rows), self.batch_size)

    def test_dataloader(self) -> DataLoader:
        return make_ordered_loader(self.splits["test"], self.batch_size)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()
