"""What runs say of some of their defects: kinds of images, by their scores, and regions, as the test measured them."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata


def measure_kinds(scores_file: Path | None) -> pd.DataFrame:
    """Measure each kind of anomalous image in a run's scores.csv against all of its normal images.

    Returns a row for each kind, by name: `images`, `image_auroc` in [0, 1], NaN without normal images, and `detected`,
    the share called anomalous, NaN where there was no decision. Empty for a file without kinds, as of version 0.1.
    """
    empty = pd.DataFrame(columns=["images", "image_auroc", "detected"])
    if not isinstance(scores_file, Path):
        return empty
    table = pd.read_csv(scores_file)
    if not {"label", "score", "kind"} <= set(table):
        return empty
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
    table = pd.read_csv(file, dtype={"by": str, "name": str}, keep_default_na=False, na_values=["nan", ""])
    return table if set(columns) <= set(table) else pd.DataFrame(columns=columns)


def rank(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """Return the share of pairs of a normal and an anomalous score that are in order, ties counting half."""
    if not len(normal) or not len(anomalous):
        return float("nan")
    ranks = rankdata(np.concatenate([normal, anomalous]))[len(normal) :]
    return float((ranks.sum() - len(ranks) * (len(ranks) + 1) / 2) / (len(normal) * len(anomalous)))
