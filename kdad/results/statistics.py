"""Means and spreads over seeds and categories, and what stands in a cell where there is none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from kdad import published
from kdad.engine.record import EXTRA
from kdad.results.read import BY_PROTOCOL, FURTHER

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
PUBLISHED_AS = {"mvtec3d": "mvtec_3d"}  # a run's data set -> its name in kdad.published, where that is another
RANK = {"run": 0, "variant": 1, "evaluation": 2}  # of equal configurations, the one that was trained comes first


@dataclass
class Measured:
    """Mean in [0, 1] and sample standard deviation over seeds (NaN for one seed), or the `gap` shown in their place.

    `n` is the number of seeds, least and most over the categories; an average is over `over` categories and lacks
    `absent`.
    """

    mean: float = math.nan
    spread: float = math.nan
    n: tuple[int, int] = (0, 0)
    gap: str = ""
    over: int = 1
    absent: tuple[str, ...] = ()

    def format(self, scale: float, digits: int) -> str:
        """Write the value as papers print it, such as 97.5 ± 0.1, or the gap.

        Behind an average that lacks categories stands how many it is over.
        """
        if self.gap:
            return self.gap
        spread = "" if math.isnan(self.spread) else f" ± {self.spread * scale:.{digits}f}"
        part = f" ({self.over} of {self.over + len(self.absent)})" if self.absent else ""
        return f"{self.mean * scale:.{digits}f}{spread}{part}"


def average_seeds(rows: pd.DataFrame, metric: str) -> Measured:
    """Return the mean of a metric over the runs of one category, one row per seed."""
    values = rows[metric].to_numpy(dtype=float)[(rows["status"] == "ok").to_numpy()]
    values = values[~np.isnan(values)]  # in NumPy: a study has thousands of such cells
    if not len(values):
        return Measured(gap=_name_gap(rows))
    spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return Measured(float(values.mean()), spread, (len(values), len(values)))


def average_categories(rows: pd.DataFrame, metric: str, wanted: Sequence[str]) -> Measured:
    """Return the mean of a metric over the `wanted` categories, one row per category and seed.

    Its spread is that of the seeds' own averages. There is none where the categories do not share their seeds: a
    seed's average would be over fewer of them.
    """
    rows = rows[rows["category"].isin(wanted)]
    figures = rows[metric].to_numpy(dtype=float)
    good = (rows["status"] == "ok").to_numpy() & ~np.isnan(figures)
    having = rows["category"].to_numpy()[good]
    absent = tuple(category for category in wanted if category not in set(having))
    if not good.any():
        return Measured(gap=_name_gap(rows), absent=absent)
    categories, column = np.unique(having.astype(str), return_inverse=True)
    seeds, row = np.unique(rows["seed"].to_numpy(dtype=float)[good], return_inverse=True)
    values = np.full((len(seeds), len(categories)), np.nan)
    values[row, column] = figures[good]
    counts, averages = (~np.isnan(values)).sum(axis=0), np.nanmean(values, axis=0)
    shared = len(seeds) > 1 and not np.isnan(values).any()
    spread = float(values.mean(axis=1).std(ddof=1)) if shared else math.nan
    return Measured(float(averages.mean()), spread, (int(counts.min()), int(counts.max())), "", len(counts), absent)


def _name_gap(rows: pd.DataFrame) -> str:
    """Return a word for why runs have no value of a metric."""
    if rows.empty:
        return "missing"
    if (rows["status"] == "ok").any():
        return "n/a"
    if (failed := rows[rows["status"] == "failed"]).empty:
        return "unfinished"
    return f"failed: {shorten_error(failed.iloc[0]['error'])}"


def shorten_error(error: object, length: int = 40) -> str:
    """Return the first line of an error, cut to `length` characters."""
    line = str(error).strip().partition("\n")[0]
    return line if len(line) <= length else line[: length - 3].rstrip() + "..."


def count_seeds(n: tuple[int, int], rows: pd.DataFrame) -> str:
    """Return how many seeds a mean is over, and how many of the runs behind it failed or are unfinished, as text.

    `n` is the least and the most seeds of a category.
    """
    counted = str(n[1]) if n[0] == n[1] else f"{n[0]}-{n[1]}"
    others = [f"{(rows['status'] == status).sum()} {status}" for status in ("failed", "unfinished")]
    return ", ".join([counted, *(text for text in others if not text.startswith("0 "))])


@cache
def list_averages(dataset: str) -> dict[str, list[str]]:
    """Return the names of the averages that papers print for a data set, each with its categories.

    The categories are in the papers' order. Empty for a data set without several categories.
    """
    known = _list_categories(PUBLISHED_AS.get(dataset, dataset))
    if not known:
        return {}
    if dataset != "mvtec":
        return {"average": known}
    textures = [category for category in known if category in TEXTURES]
    return {
        "average_textures": textures,
        "average_objects": [category for category in known if category not in TEXTURES],
        "average": known,
    }


def _list_categories(dataset: str) -> list[str]:
    """Return every category of which some paper prints a figure."""
    tables = ((paper, table) for paper in published.list_papers() for table in published.list_tables(paper))
    cells = pd.concat(published.load_table(paper, table) for paper, table in tables)
    names = cells.loc[cells["dataset"] == dataset, "category"].unique()
    return [name for name in names if name != "all" and not name.startswith("average")]


def drop_repeats(rows: pd.DataFrame, keys: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep one of the runs that agree in `keys`, preferring a complete one, then a trained one, then the latest.

    Returns the runs kept and those left out, both in the order given. PRO up to another rate, or AUPIMO, that
    only an evaluation has, whose PRO is the same otherwise, stands in the run's row; so do one's own metrics and what
    it has counted by other protocols, where its image AUROC is the same.
    """
    ranked = rows.assign(_complete=rows["status"] == "ok", _rank=rows["kind"].map(RANK))
    ranked = ranked.sort_values(["_complete", "_rank", "modified"], ascending=[False, True, False], kind="stable")
    kept = ranked.drop_duplicates(list(keys)).index
    beside = {name: "pro" for name in rows.columns if FURTHER.fullmatch(name)}
    of_images = [name for name in rows.columns if EXTRA.fullmatch(name) or BY_PROTOCOL.fullmatch(name)]
    beside |= dict.fromkeys([*of_images, *(name for name in rows.columns if "protocol@" in name)], "image_auroc")
    for metric, same in beside.items():
        known = ranked.groupby([*keys, same], sort=False)[metric].transform("first")
        rows = rows.assign(**{metric: rows[metric].fillna(known)})
    return rows.loc[rows.index.isin(kept)], rows.loc[~rows.index.isin(kept)]
