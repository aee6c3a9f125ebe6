"""Solar cells in electroluminescence images, from the package elpv-dataset.

Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence Imagery",
EU PVSEC 2018.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from kdad.data.base import AnomalyDataModule
from kdad.data.samples import Sample, hold_out
from kdad.errors import UserError


class ELPV(AnomalyDataModule):
    """Solar cells: normal at defect probability 0, anomalous at 1; those in between, 1/3 and 2/3, are left out.

    `test_fraction` of the normal cells, the first in the order of the split, is for the test. `root` null is the
    installed package's own folder. Raises `UserError` where there is no such package, and for another fraction than one
    between 0 and 1.
    """

    layout = "labels.csv with a path below root, a defect probability and mono or poly in each row; images/cell<n>.png"
    obtain = "It is in the package elpv-dataset: pip install 'kdad[elpv]'; licence CC BY-NC-SA 4.0"

    def __init__(self, *, root: str | os.PathLike | None = None, test_fraction: float = 0.2, **common: Any) -> None:
        if root is None:
            found = find_spec("elpv_dataset")
            if found is None or found.origin is None:
                raise UserError(f"data set {common['name']}: no package elpv_dataset here. {self.obtain}")
            root = Path(found.origin).parent / "data"
        super().__init__(root=root, **common)
        if not 0 < test_fraction < 1:
            raise UserError(f"dataset.test_fraction is {test_fraction}: it must be above 0 and below 1")
        self.test_fraction = test_fraction
        if test_fraction != 0.2:  # official counts are with this one
            self.official = {}

    def categories(self) -> list[str]:
        self.check_root()
        return sorted(set(self._read_rows()["type"]))

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        rows = self._read_rows()
        rows = rows[rows["type"] == self.category]
        normal, anomalous = (
            [Sample(self.root / path, label, kind) for path in rows.loc[rows["probability"] == label, "path"]]
            for label, kind in enumerate(("functional", "defective"))
        )
        n_test = min(max(1, round(self.test_fraction * len(normal))), len(normal) - 1)
        train, held_out = hold_out(normal, n_test, self.root, self.split_seed)
        return sorted(train), sorted(held_out + anomalous)

    def _read_rows(self) -> pd.DataFrame:
        table = self.root / "labels.csv"
        try:
            rows = pd.read_csv(table, sep=r"\s+", names=["path", "probability", "type"], dtype={"probability": float})
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {table}: {error}. Expected in {self.root}: {self.layout}") from error
        if rows.isna().any(axis=None) or not rows["probability"].between(0, 1).all():
            raise UserError(f"{table}: a row is incomplete, or its probability is not from 0 to 1")
        return rows
