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
from torch import Tensor
from torchvision import datasets

from kdad.data.base import AnomalyDataModule
from kdad.data.images import Look, square
from kdad.data.samples import Sample
from kdad.errors import UserError


class TorchvisionSet(AnomalyDataModule):
    """`category` is a class, by index or by name; results have the index, as the papers' tables do.

    Images are rows of arrays: `train/00042` and `test/00042` are their paths, by their place in the array. With
    `download` torchvision fetches what is missing. A set whose labels or checksums are wrong is refused.
    """

    source: Callable[..., Any]  # torchvision's class
    folder: str  # what torchvision expects below root
    names: tuple[str, ...]  # of the classes

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        name = re.sub(r"[^a-z0-9]+", "_", (self.category or "").lower())
        self.category = str(self.names.index(name)) if name in self.names else self.category
        self._parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # images (N,h,w) or (N,h,w,3), classes (N,)

    def prepare_data(self) -> None:
        if self.download and not (self._parts or self._splits):
            torchvision_download(self.source, self.root, self.name)

    def check_root(self) -> None:
        self.prepare_data()
        if not (self.root / self.folder).is_dir():
            raise UserError(missing(self.name, self.root, self.layout, self.obtain))

    def categories(self) -> list[str]:
        self.check_root()
        return [str(i) for i in range(len(self.names))]

    def check(self) -> None:
        if self.category not in self.categories():
            found = f"no class {self.category}" if self.category else "category=<class> is needed"
            classes = ", ".join(f"{i} {name}" for i, name in enumerate(self.names))
            raise UserError(f"data set {self.name}: {found}. Give one by index or by name: {classes}")
        super().check()

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        normal = int(self.category)
        train, test = (
            [Sample(Path(part, f"{i:05d}"), int(k != normal), self.names[k]) for i, k in enumerate(self._part(part)[1])]
            for part in ("train", "test")
        )
        return [sample for sample in train if sample.label == 0], test

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self._parts.clear()

    def read_image(self, sample: Sample) -> Tensor:
        return square(Image.fromarray(self._pixels(sample)).convert("RGB"), self.image_size)

    def version(self, sample: Sample) -> tuple[str]:
        return (hashlib.sha256(self._pixels(sample).tobytes()).hexdigest(),)

    def copies(self, train: Sequence[Sample], test: Sequence[Sample]) -> list[tuple[Path, Path]]:
        originals = {self._pixels(sample).tobytes(): sample.path for sample in train}
        found = ((sample.path, originals.get(self._pixels(sample).tobytes())) for sample in test)
        return [(path, original) for path, original in found if original]

    def look(self, sample: Sample) -> Look:
        image = Image.fromarray(self._pixels(sample))
        return Look(image.size, image.mode)

    def _pixels(self, sample: Sample) -> np.ndarray:
        return self._part(sample.path.parent.name)[0][int(sample.path.name)]

    def _part(self, part: str) -> tuple[np.ndarray, np.ndarray]:
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
    source = datasets.MNIST
    folder = "MNIST/raw"
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    layout = "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"
    obtain = "MNIST is by Yann LeCun, Corinna Cortes and Christopher Burges"


class FashionMNIST(TorchvisionSet):
    source = datasets.FashionMNIST
    folder = "FashionMNIST/raw"
    names = (
        "t_shirt_top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot",
    )  # fmt: skip
    layout = "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"
    obtain = "Fashion-MNIST is at https://github.com/zalandoresearch/fashion-mnist, licence MIT"


class CIFAR10(TorchvisionSet):
    """torchvision compares the files with the published checksums before it unpickles them."""

    source = datasets.CIFAR10
    folder = "cifar-10-batches-py"
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    layout = "cifar-10-batches-py/{data_batch_1 ... data_batch_5,test_batch,batches.meta}"
    obtain = "CIFAR-10 is at https://www.cs.toronto.edu/~kriz/cifar.html, the version for Python"


def missing(name: str, root: Path, layout: str, obtain: str) -> str:
    """What to say where torchvision's folders are not there."""
    return (
        f"data set {name}: not found below {root}. Expected there: {layout}. dataset.root=<folder> says where it is, "
        f"KDAD_DATA sets the parent of the default, dataset.download=true downloads it. {obtain}."
    )


def torchvision_download(source: Callable[..., Any], root: Path, name: str) -> None:
    """torchvision's own download, with its checksums and progress, of what is missing. Raises UserError if it fails."""
    try:
        source(root, download=True)
    except Exception as error:  # of the network, the server, the disk or a checksum
        raise UserError(
            f"data set {name}: downloading into {root} failed: {str(error).strip()}\nWithout a network, copy the "
            "folder from elsewhere and say where it is: dataset.root=<folder>"
        ) from error
