"""What runs say of some of their defects: kinds of images, by their scores, and regions, as the test measured them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from kdad.errors import UserError


def measure_kinds(scores_file: Path | None) -> pd.DataFrame:
    """Measure each kind of anomalous image in a run's scores.csv against all of its normal images.

    Returns a row for each kind, by name: `images`, `image_auroc` in [0, 1], NaN without normal images, and `detected`,
    the share called anomalous, NaN where there was no decision. Empty for a file without kinds, as of version 0.1.
    """
    empty = pd.DataFrame(columns=["images", "image_auroc", "detected"])
    if not isinstance(scores_file, Path):
        return empty
    table = read_table(scores_file)
    if not {"label", "score", "kind"} <= set(table):
        return empty
    refuse_text(table, scores_file, ("label", "score", "decision"))
    normal = table.loc[table["label"] == 0, "score"].to_numpy()
    rows = {}
    for kind, part in table[table["label"] == 1].groupby("kind"):
        detected = part["decision"].mean() if "decision" in part else np.nan
        rows[str(kind)] = (len(part), rank(normal, part["score"].to_numpy()), detected)
    return pd.DataFrame.from_dict(rows, orient="index", columns=empty.columns) if rows else empty


def read_defects(file: Path | None) -> pd.DataFrame:
    """Read a run's defects.csv. Returns a row for each kind and each size of region that its test has; else none.

    Columns: `by` (kind or size), `name`, `images`, `regions`, `pixels`, and pro, pixel_ap, pixel_f1_max and aupimo in
    [0, 1].
    """
    columns = ["by", "name", "images", "regions", "pixels", "pro", "pixel_ap", "pixel_f1_max", "aupimo"]
    if not isinstance(file, Path):
        return pd.DataFrame(columns=columns)
    table = read_table(file, dtype={"by": str, "name": str}, keep_default_na=False, na_values=["nan", ""])
    if not set(columns) <= set(table):
        return pd.DataFrame(columns=columns)
    refuse_text(table, file, columns[2:])
    return table


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """Read a CSV file by pandas' options. Raises `UserError` where it is none."""
    try:
        return pd.read_csv(path, **options)
    except (ValueError, OverflowError) as error:  # pandas' own errors, and text that is not UTF-8
        raise UserError(f"{path}: cannot be read as a table: {error}. Was it changed?") from error


def refuse_text(table: pd.DataFrame, path: Path, columns: Sequence[str]) -> None:
    """Raise `UserError` where one of these columns, which hold numbers, holds anything else."""
    for name in columns:
        if name in table and not pd.api.types.is_numeric_dtype(table[name]):
            raise UserError(f"{path}: the column {name} holds something else than numbers. Was it changed?")


def rank(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """Return the share of pairs of a normal and an anomalous score that are in order, ties counting half."""
    if not len(normal) or not len(anomalous):
        return float("nan")
    ranks = rankdata(np.concatenate([normal, anomalous]))[len(normal) :]
    return float((ranks.sum() - len(ranks) * (len(ranks) + 1) / 2) / (len(normal) * len(anomalous)))
