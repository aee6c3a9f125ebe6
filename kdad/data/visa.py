"""VisA, folders as downloaded.

Zou, Jeong, Pemula, Zhang and Dabeer, "SPot-the-Difference Self-supervised Pre-training for Anomaly Detection and
Segmentation", ECCV 2022.
"""

import csv
from typing import Any

from kdad.data.base import AnomalyDataModule
from kdad.data.download import Archive
from kdad.data.samples import Sample
from kdad.errors import UserError

COLUMNS = ("object", "split", "label", "image", "mask")
VALUES = {"split": ("train", "test"), "label": ("normal", "anomaly")}


class VisA(AnomalyDataModule):
    """VisA, divided into training and test images by a table in split_csv, `split`, 1cls by default.

    A mask's values number the kinds of anomaly in it; whatever is not 0 is anomalous.
    """

    layout = "<object>/Data/Images/{Normal,Anomaly}, <object>/Data/Masks/Anomaly and split_csv/1cls.csv"
    obtain = "VisA is at https://github.com/amazon-science/spot-diff, licence CC BY 4.0"
    mask_kind = "labels"
    archive = Archive(
        "https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
        "2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
    )

    def __init__(self, *, split: str = "1cls", **common: Any) -> None:
        super().__init__(**common)
        self.table = self.root / "split_csv" / f"{split}.csv"

    def categories(self) -> list[str]:
        return sorted({row["object"] for row in self._read_rows()})

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Return the training and the test images of the table. Raises `UserError` on a row that cannot be used."""
        parts: dict[str, list[Sample]] = {"train": [], "test": []}
        for row in self._read_rows():
            if row["object"] != self.category:
                continue
            image, label = self.root / row["image"], VALUES["label"].index(row["label"])
            if label and row["split"] == "train":
                raise UserError(f"{self.table} trains on the anomalous image {image}: only normal ones train")
            mask = self.root / row["mask"] if label and row["mask"] else None
            parts[row["split"]].append(Sample(image, label, "anomaly" if label else "good", mask))
        return sorted(parts["train"]), sorted(parts["test"])

    def _read_rows(self) -> list[dict[str, str]]:
        """Read the table's rows and check each value. Raises `UserError` where one is missing or unknown."""
        self.check_root()
        try:
            with self.table.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            beside = ", ".join(sorted(path.stem for path in self.table.parent.glob("*.csv"))) or "none"
            raise UserError(
                f"cannot read the split {self.table}: {error}. Splits there: {beside}. Expected: {self.layout}. "
                f"{self.obtain}"
            ) from error
        for number, row in enumerate(rows, 2):
            if missing := [column for column in COLUMNS if row.get(column) is None]:
                raise UserError(f"{self.table}, line {number}: no column {missing[0]}; expected {', '.join(COLUMNS)}")
            for column, values in VALUES.items():
                if row[column] not in values:
                    found, meant = repr(row[column]), " or ".join(values)
                    raise UserError(f"{self.table}, line {number}: {column} is {found}, not {meant}")
        return rows
