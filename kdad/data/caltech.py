"""Caltech-256 for novelty detection: inliers from some categories, outliers from the clutter.

Griffin, Holub and Perona, "Caltech-256 Object Category Dataset", 2007.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchvision import datasets

from kdad.data.base import AnomalyDataModule
from kdad.data.images import list_images
from kdad.data.place import list_folders
from kdad.data.samples import Sample, hold_out, order_samples
from kdad.data.torchvision_sets import describe_missing, download_by_torchvision
from kdad.errors import UserError

CLUTTER = "257.clutter"


class Caltech256(AnomalyDataModule):
    """Caltech-256, split by a protocol of our own, since RD prints a result (Table 4: 99.9) without its protocol.

    1. `category=all` draws `n_categories` of the 256 by split_seed; a category's name takes that one alone.
    2. Of each, the first `max_per_category` images by name are inliers (null: all).
    3. `test_fraction` of the inliers, the first in the order of the split, is for the test, the others train.
    4. Images of 257.clutter, the first in that order, make up `anomalous_fraction` of the test images.

    n = 1, 3 or 5 random categories, their first 150 images and half outliers are those of Sabokrou et al.,
    "Adversarially Learned One-Class Classifier for Novelty Detection", CVPR 2018. Raises `UserError` for a number below
    1 or a fraction that is not between 0 and 1.
    """

    layout = "256_ObjectCategories/<number>.<name>/*.jpg with 257.clutter (or caltech256/256_ObjectCategories/...)"
    needs_root = False  # it says more of what is missing
    obtain = "Caltech-256 is at https://data.caltech.edu/records/nyy15-4j048"
    default_category = "all"
    counted = "images to draw from"

    def __init__(
        self,
        *,
        n_categories: int = 1,
        max_per_category: int | None = 150,
        test_fraction: float = 0.2,
        anomalous_fraction: float = 0.5,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        for key, number in {"n_categories": n_categories, "max_per_category": max_per_category}.items():
            if number is not None and number < 1:
                raise UserError(f"dataset.{key} is {number}: it must be at least 1")
        for key, fraction in {"test_fraction": test_fraction, "anomalous_fraction": anomalous_fraction}.items():
            if not 0 < fraction < 1:
                raise UserError(f"dataset.{key} is {fraction}: it must be above 0 and below 1")
        self.n_categories, self.max_per_category = n_categories, max_per_category
        self.test_fraction, self.anomalous_fraction = test_fraction, anomalous_fraction

    @property
    def images(self) -> Path:
        """The folder of all categories; torchvision puts a folder caltech256 around it."""
        name = "256_ObjectCategories"
        return next((p for p in (self.root / "caltech256" / name, self.root / name) if p.is_dir()), self.root / name)

    def prepare_data(self) -> None:
        if self.download and not self.images.is_dir():
            download_by_torchvision(datasets.Caltech256, self.root, self.name)

    def check_root(self) -> None:
        self.prepare_data()
        if not (self.images / CLUTTER).is_dir():
            raise UserError(describe_missing(self.place))

    def categories(self) -> list[str]:
        self.check_root()
        return ["all", *(folder.name for folder in list_folders(self.images) if folder.name != CLUTTER)]

    def compare_with_official(self, counts: Mapping[str, int]) -> str:
        """Compare the numbers of images in the categories and the clutter, before drawing, with the official ones."""
        if self.category not in self.official:
            return ""
        sizes = {folder.name: len(list_images(folder)) for folder in list_folders(self.images)}
        clutter = sizes.pop(CLUTTER)
        return super().compare_with_official({"train": sum(sizes.values()), "test": clutter})

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Return the training and the test images, each sorted by path, drawn by the protocol in the class's docstring.

        Raises `UserError` where there are fewer categories, inliers or outliers than asked for.
        """
        inliers = [
            Sample(path, 0, name)
            for name in self._choose_categories()
            for path in list_images(self.images / name)[: self.max_per_category]
        ]
        n_test = round(self.test_fraction * len(inliers))
        if not 0 < n_test < len(inliers):
            raise UserError(
                f"data set {self.name}: {len(inliers)} inliers in {self.images}, of which dataset.test_fraction="
                f"{self.test_fraction} would leave {len(inliers) - n_test} to train on and {n_test} to test"
            )
        train, test = hold_out(inliers, n_test, self.images, self.split_seed)
        clutter = [Sample(path, 1, "clutter") for path in list_images(self.images / CLUTTER)]
        n_outliers = round(n_test * self.anomalous_fraction / (1 - self.anomalous_fraction))
        if not 0 < n_outliers <= len(clutter):
            raise UserError(
                f"data set {self.name}: dataset.anomalous_fraction={self.anomalous_fraction} takes {n_outliers} "
                f"outliers beside {n_test} inliers, but {self.images / CLUTTER} has {len(clutter)} images"
            )
        return sorted(train), sorted(test + order_samples(clutter, self.images, self.split_seed)[:n_outliers])

    def _choose_categories(self) -> list[str]:
        """Choose the categories that the inliers come from. Raises `UserError` where there are too few."""
        if self.category != "all":
            return [self.category]
        names = self.categories()[1:]
        if self.n_categories > len(names):
            raise UserError(f"dataset.n_categories is {self.n_categories}: {self.images} has {len(names)} categories")
        drawn = sorted(names, key=lambda name: hashlib.sha256(f"{self.split_seed}/{name}".encode()).digest())
        return drawn[: self.n_categories]
