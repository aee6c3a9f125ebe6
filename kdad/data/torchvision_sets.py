"""MNIST, Fashion-MNIST and CIFAR-10 in torchvision's folders: one class is normal, all others anomalous.

MKD, Sec. 4.1: "one class as normal and others as anomaly, at testing: the whole test set is used".
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision import datasets

from kdad.data.base import AnomalyDataModule
from kdad.data.images import Look
from kdad.data.intensity import refuse_rule
from kdad.data.place import Place
from kdad.data.samples import Sample
from kdad.errors import UserError


class TorchvisionSet(AnomalyDataModule):
    """A set of torchvision's, of which the class `category`, by index or by name, is normal.

    Results have the class's index, as the papers' tables do. Images are rows of arrays: `train/00042` and `test/00042`
    are their paths, by their place in the array. With `download` torchvision fetches what is missing. A set whose
    labels or checksums are wrong is refused.
    """

    source: Callable[..., Any]  # torchvision's class
    folder: str  # what torchvision expects below root
    names: tuple[str, ...]  # of the classes

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        name = re.sub(r"[^a-z0-9]+", "_", self.category.lower())
        self.category = str(self.names.index(name)) if name in self.names else self.category
        self._parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # images (N,h,w) or (N,h,w,3), classes (N,)

    def prepare_data(self) -> None:
        if self.download and not (self._parts or self.splits):
            download_by_torchvision(self.source, self.root, self.name)

    def check_root(self) -> None:
        self.prepare_data()
        if not (self.root / self.folder).is_dir():
            raise UserError(describe_missing(self.place))

    def categories(self) -> list[str]:
        self.check_root()
        return [str(i) for i in range(len(self.names))]

    def check(self) -> None:
        refuse_rule(self.rule, self.name)
        if self.category not in self.categories():
            found = f"no class {self.category}" if self.category else "category=<class> is needed"
            classes = ", ".join(f"{i} {name}" for i, name in enumerate(self.names))
            raise UserError(f"data set {self.name}: {found}. Give one by index or by name: {classes}")
        super().check()

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        train, test = self._list_part("train"), self._list_part("test")
        return [sample for sample in train if sample.label == 0], test

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self._parts.clear()

    def read_picture(self, sample: Sample) -> Image.Image:
        return Image.fromarray(self._read_pixels(sample)).convert("RGB")

    def version(self, sample: Sample) -> tuple[int | str, ...]:
        return (hashlib.sha256(self._read_pixels(sample).tobytes()).hexdigest(),)

    def find_copies(self, train: Sequence[Sample], test: Sequence[Sample]) -> list[tuple[Path, Path]]:
        originals = {self._read_pixels(sample).tobytes(): sample.path for sample in train}
        found = ((sample.path, originals.get(self._read_pixels(sample).tobytes())) for sample in test)
        return [(path, original) for path, original in found if original]

    def look_at(self, sample: Sample) -> Look:
        image = Image.fromarray(self._read_pixels(sample))
        return Look(image.size, image.mode)

    def _list_part(self, part: str) -> list[Sample]:
        normal, (_, classes) = int(self.category), self._read_part(part)
        return [Sample(Path(part, f"{i:05d}"), int(k != normal), self.names[k]) for i, k in enumerate(classes)]

    def _read_pixels(self, sample: Sample) -> np.ndarray:
        return self._read_part(sample.path.parent.name)[0][int(sample.path.name)]

    def _read_part(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Read all images and classes of `train` or `test`, once. Raises `UserError` where they are damaged."""
        if part not in self._parts:
            place = self.root / self.folder
            try:
                found = self.source(self.root, train=part == "train")
                images, classes = np.asarray(found.data), np.asarray(found.targets)
            except Exception as error:  # whatever a damaged file leads to
                raise UserError(
                    f"data set {self.name}: torchvision cannot read the {part} images in {place}: {error}. Remove that "
                    "folder and get it again: dataset.download=true downloads it"
                ) from error
            if len(images) != len(classes) or not np.isin(classes, range(len(self.names))).all():
                raise UserError(
                    f"data set {self.name}: {place} has {len(images)} {part} images and {len(classes)} labels from "
                    f"{classes.min()} to {classes.max()}; expected one for each, from 0 to {len(self.names) - 1}"
                )
            self._parts[part] = images, classes
        return self._parts[part]


class MNIST(TorchvisionSet):
    """Handwritten digits, 28 x 28 px."""

    source = datasets.MNIST
    folder = "MNIST/raw"
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    layout = "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"
    obtain = "MNIST is by Yann LeCun, Corinna Cortes and Christopher Burges"


class FashionMNIST(TorchvisionSet):
    """Pieces of clothing, 28 x 28 px."""

    source = datasets.FashionMNIST
    folder = "FashionMNIST/raw"
    names = (
        "t_shirt_top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot",
    )  # fmt: skip
    layout = "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"
    obtain = "Fashion-MNIST is at https://github.com/zalandoresearch/fashion-mnist, licence MIT"


class CIFAR10(TorchvisionSet):
    """Small colour photographs, 32 x 32 px; torchvision compares checksums before it unpickles a file."""

    source = datasets.CIFAR10
    folder = "cifar-10-batches-py"
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    layout = "cifar-10-batches-py/{data_batch_1 ... data_batch_5,test_batch,batches.meta}"
    obtain = "CIFAR-10 is at https://www.cs.toronto.edu/~kriz/cifar.html, the version for Python"


def describe_missing(place: Place) -> str:
    """Say that torchvision's folders are not there, and how to get them."""
    return (
        f"data set {place.name}: not found below {place.root}. Expected there: {place.layout}. dataset.root=<folder> "
        "says where it is, KDAD_DATA sets the parent of the default, dataset.download=true downloads it. "
        f"{place.obtain}."
    )


def download_by_torchvision(source: Callable[..., Any], root: Path, name: str) -> None:
    """Let torchvision download what is missing, with its checksums and progress. Raises `UserError` if it fails."""
    try:
        source(root, download=True)
    except Exception as error:  # of the network, the server, the disk or a checksum
        raise UserError(
            f"data set {name}: downloading into {root} failed: {str(error).strip()}\nWithout a network, copy the "
            "folder from elsewhere and say where it is: dataset.root=<folder>"
        ) from error
