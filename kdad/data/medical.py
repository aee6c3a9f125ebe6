"""The medical data sets of MKD, Tables 5 and 6, in the folders of their archives."""

from pathlib import Path
from typing import Any

import pandas as pd

from kdad.data.base import AnomalyDataModule
from kdad.data.images import list_images
from kdad.data.samples import Sample, hold_out
from kdad.errors import UserError


class SmallMedical(AnomalyDataModule):
    """A small set: a few normal images and all anomalous ones are for the test, the other normal ones for training.

    The `n_normal_test` normal images are the first in the order of the split. Source: MKD, Sec. 4.1, "10 random normal
    images + all anomalous ones for test, the rest normal ones for training".
    """

    default_category = "all"

    def __init__(self, *, n_normal_test: int = 10, **common: Any) -> None:
        super().__init__(**common)
        if n_normal_test < 1:
            raise UserError(f"dataset.n_normal_test is {n_normal_test}: it must be at least 1")
        self.n_normal_test = n_normal_test
        if n_normal_test != 10:  # official counts are with MKD's
            self.official = {}

    @property
    def images(self) -> Path:
        """The folder that image paths are relative to in splits, so that an archive's outer folder changes no split."""
        return self.root

    def categories(self) -> list[str]:
        self.check_root()
        return ["all"]

    def find_images(self) -> list[Sample]:
        """Return all images of the data set, normal and anomalous."""
        raise NotImplementedError

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        images = self.find_images()
        normal = [sample for sample in images if sample.label == 0]
        if len(normal) <= self.n_normal_test:
            raise UserError(
                f"data set {self.name}: {len(normal)} normal images in {self.root}, of which dataset.n_normal_test="
                f"{self.n_normal_test} are for the test: none are left to train on. Expected: {self.layout}"
            )
        train, held_out = hold_out(normal, self.n_normal_test, self.images, self.split_seed)
        return sorted(train), sorted(held_out + [sample for sample in images if sample.label == 1])


class HeadCT(SmallMedical):
    """CT slices of heads, with and without a hemorrhage; labels are in a table."""

    layout = "labels.csv with the columns id and hemorrhage, and head_ct/000.png ... (or head_ct/head_ct/000.png ...)"
    obtain = "Head CT - hemorrhage is at https://www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage"

    @property
    def images(self) -> Path:
        folder = self.root / "head_ct"
        return folder / "head_ct" if (folder / "head_ct").is_dir() else folder

    def find_images(self) -> list[Sample]:
        """Return all images with the labels of labels.csv. Raises `UserError` where table and images do not match."""
        table, folder = self.root / "labels.csv", self.images
        images = {path.stem: path for path in list_images(folder)}
        samples = []
        rows = self._read_rows(table)
        for number, label in zip(rows["id"].tolist(), rows["hemorrhage"].tolist(), strict=True):
            path = images.pop(f"{number:03d}", None)
            if path is None:
                raise UserError(f"{table}: no image {number:03d} in {folder}, or two rows of that id")
            samples.append(Sample(path, label, "hemorrhage" if label else "normal"))
        if images:
            raise UserError(f"{table}: no row for {len(images)} images in {folder}, such as {min(images.values())}")
        return samples

    def _read_rows(self, table: Path) -> pd.DataFrame:
        try:
            rows = pd.read_csv(table, skipinitialspace=True)  # its header has a blank before hemorrhage
            rows = rows[["id", "hemorrhage"]].astype({"id": "int64", "hemorrhage": "int64"})
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"cannot read {table}: {error}. It should have the columns id and hemorrhage (0 or 1)"
            ) from error
        if not rows["hemorrhage"].isin((0, 1)).all():
            raise UserError(f"{table}: hemorrhage should be 0 or 1; found {sorted(set(rows['hemorrhage']))}")
        return rows


class BrainMRI(SmallMedical):
    """MRI slices of brains, with and without a tumour, in a folder each."""

    layout = "no/*.jpg and yes/*.jpg, images of any suffix (or that in the archive's folder brain_tumor_dataset)"
    obtain = (
        "Brain MRI images for brain tumor detection are at "
        "https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection"
    )

    @property
    def images(self) -> Path:
        inside = self.root / "brain_tumor_dataset"
        return inside if inside.is_dir() and not (self.root / "no").is_dir() else self.root

    def find_images(self) -> list[Sample]:
        kinds = {"no": ("normal", 0), "yes": ("tumour", 1)}
        return [
            Sample(path, label, kind)
            for folder, (kind, label) in kinds.items()
            for path in _list_required(self.images / folder, self)
        ]


class RetinalOCT(AnomalyDataModule):
    """Retinal OCT in its own split into training and test images; only NORMAL trains, and `val` is not used."""

    layout = "{train,test}/{NORMAL,CNV,DME,DRUSEN}/*.jpeg (or that in the archive's folder OCT2017)"
    obtain = "Retinal OCT is at https://data.mendeley.com/datasets/rscbjbr9sj, and as kermany2018 at Kaggle"
    default_category = "all"
    kinds = ("NORMAL", "CNV", "DME", "DRUSEN")

    def categories(self) -> list[str]:
        self.check_root()
        return ["all"]

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        # Kaggle's archive has everything in "OCT2017 ", with a blank that some file systems turn into something else.
        places = (place for pattern in ("train", "*/train", "*/*/train") for place in sorted(self.root.glob(pattern)))
        root = next((place.parent for place in places if place.is_dir()), self.root)
        train = [Sample(path, 0, "NORMAL") for path in _list_required(root / "train" / "NORMAL", self)]
        test = [
            Sample(path, int(kind != "NORMAL"), kind)
            for kind in self.kinds
            for path in _list_required(root / "test" / kind, self)
        ]
        return train, sorted(test)


def _list_required(folder: Path, data: AnomalyDataModule) -> list[Path]:
    """List the images directly in `folder`, sorted. Raises `UserError` where there are none."""
    found = list_images(folder)
    if not found:
        raise UserError(f"data set {data.name}: no images in {folder}. Expected below {data.root}: {data.layout}")
    return found
