"""Means and spreads over seeds and categories, and what stands in a cell where there is none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd

from kdad import published

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

    def text(self, scale: float, digits: int) -> str:
        """As papers print it, 97.5 ± 0.1, and behind an average that lacks categories how many it is over."""
        if self.gap:
            return self.gap
        spread = "" if math.isnan(self.spread) else f" ± {self.spread * scale:.{digits}f}"
        part = f" ({self.over} of {self.over + len(self.absent)})" if self.absent else ""
        return f"{self.mean * scale:.{digits}f}{spread}{part}"


def over_seeds(rows: pd.DataFrame, metric: str) -> Measured:
    """Of the runs of one category, one row per seed."""
    values = rows.loc[rows["status"] == "ok", metric].dropna()
    if values.empty:
        return Measured(gap=_gap(rows))
    return Measured(values.mean(), values.std(ddof=1), (len(values), len(values)))


def over_categories(rows: pd.DataFrame, metric: str, wanted: Sequence[str]) -> Measured:
    """The mean over categories, one row per category and seed; its spread is that of the seeds' own averages.

    There is no spread where the categories do not share their seeds: a seed's average would be over fewer of them.
    """
    rows = rows[rows["category"].isin(wanted)]
    values = rows[rows["status"] == "ok"].dropna(subset=[metric]).pivot(index="seed", columns="category", values=metric)
    absent = tuple(category for category in wanted if category not in values.columns)
    if values.empty:
        return Measured(gap=_gap(rows), absent=absent)
    seeds = values.count()
    spread = math.nan if values.isna().any(axis=None) else values.mean(axis=1).std(ddof=1)
    n = int(seeds.min()), int(seeds.max())
    return Measured(values.mean().mean(), spread, n, over=len(seeds), absent=absent)


def _gap(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "missing"
    if (rows["status"] == "ok").any():
        return "n/a"
    if (failed := rows[rows["status"] == "failed"]).empty:
        return "unfinished"
    return f"failed: {short(failed.iloc[0]['error'])}"


def count_seeds(n: tuple[int, int], rows: pd.DataFrame) -> str:
    """Seeds behind a mean, least and most over its categories, and the runs that should have been more."""
    counted = str(n[1]) if n[0] == n[1] else f"{n[0]}-{n[1]}"
    others = [f"{(rows['status'] == status).sum()} {status}" for status in ("failed", "unfinished")]
    return ", ".join([counted, *(text for text in others if not text.startswith("0 "))])


def short(error: object, length: int = 40) -> str:
    """The beginning of an error's first line."""
    line = str(error).strip().partition("\n")[0]
    return line if len(line) <= length else line[: length - 3].rstrip() + "..."


@cache
def averages(dataset: str) -> dict[str, list[str]]:
    """The printed means of a data set, each with its categories in the papers' order; empty if it has no several."""
    known = _categories(PUBLISHED_AS.get(dataset, dataset))
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


def _categories(dataset: str) -> list[str]:
    """Every category of which some paper prints a figure."""
    cells = pd.concat(published.load(paper, table) for paper in published.papers() for table in published.tables(paper))
    names = cells.loc[cells["dataset"] == dataset, "category"].unique()
    return [name for name in names if name != "all" and not name.startswith("average")]


def once(rows: pd.DataFrame, keys: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of runs that agree in `keys` the latest complete one, and those left out; in the order given."""
    ranked = rows.assign(_complete=rows["status"] == "ok", _rank=rows["kind"].map(RANK))
    ranked = ranked.sort_values(["_complete", "_rank", "modified"], ascending=[False, True, False], kind="stable")
    kept = ranked.drop_duplicates(list(keys)).index
    return rows.loc[rows.index.isin(kept)], rows.loc[~rows.index.isin(kept)]
