"""The cells of a paper's table: what is printed in each, and what runs have measured for it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdad import published
from kdad.report.spread import Measured, averages, count_seeds, over_categories, over_seeds


@dataclass
class Cell:
    """`printed` is a row of `published.load`, None where the paper has nothing; `measured` None where runs have not."""

    printed: dict[str, Any] | None
    measured: Measured | None
    scale: int

    @property
    def published(self) -> str:
        """Digits as printed, `unknown`, or nothing."""
        return "" if self.printed is None else self.printed["value"] if self.known else "unknown"

    @property
    def known(self) -> bool:
        return self.printed is not None and self.printed["status"] == "printed"

    @property
    def difference(self) -> float:
        """Measured - published, in the printed unit; NaN unless both are means over the same."""
        if not self.known or self.measured is None or self.measured.gap or self.measured.absent:
            return math.nan
        return self.measured.mean * self.scale - float(self.printed["value"])


@dataclass
class Row:
    """One printed setting and category under one set of conditions (None: no run), or what was run beside these."""

    dataset: str
    setting: str
    category: str
    conditions: str | None
    cells: dict[str, Cell]
    n: str

    @property
    def averaged(self) -> bool:
        return self.category.startswith("average")

    @property
    def absent(self) -> tuple[str, ...]:
        """The categories that no cell of an average is over, though some run is in it."""
        cells = [cell.measured for cell in self.cells.values() if cell.measured]
        return next((measured.absent for measured in cells if measured.absent and not measured.gap), ())

    def records(self, about: dict[str, str]) -> Iterator[dict[str, Any]]:
        """The cells for a CSV file: unrounded, in the printed unit."""
        for metric, cell in self.cells.items():
            measured = cell.measured or Measured(gap="not measured")
            if cell.printed is None and measured.gap:
                continue
            status = measured.gap or (f"without {' '.join(measured.absent)}" if measured.absent else "ok")
            yield {
                "paper": about["paper"], "table": about["table"], "method": about["paper"].upper(),
                "dataset": self.dataset, "setting": self.setting, "category": self.category,
                "conditions": self.conditions or "", "metric": metric,
                "unit": published.UNITS.get(metric, about["unit"]), "published": cell.published,
                "published_spread": cell.printed["spread"] if cell.printed else "",
                "measured": round(measured.mean * cell.scale, 6), "spread": round(measured.spread * cell.scale, 6),
                "n": measured.n[0], "difference": round(cell.difference, 6), "status": status,
            }  # fmt: skip


def printed_rows(own: pd.DataFrame, runs: pd.DataFrame, scale: int) -> Iterator[Row]:
    """The rows of a table, setting by setting, once for each of the conditions under which they were run.

    Categories that the table does not print have rows too, unless all that a printed mean is over are there.
    """
    for (dataset, setting), cells in own.groupby(["dataset", "setting"], sort=False):
        found = runs[(runs["dataset"] == dataset) & (runs["setting"] == setting) & runs["printed"]]
        names = list(cells["category"].unique())
        for category in [*_unprinted(dataset, names, found), *names]:
            printed = {cell["metric"]: cell for cell in cells[cells["category"] == category].to_dict("records")}
            within = found if category.startswith("average") else found[found["category"] == category]
            # A row that the table has is as wide as there; any other has what was measured.
            metrics = [m for m in own["metric"].unique() if m in printed or not printed and m not in published.UNITS]
            for conditions in list(within["conditions"].unique()) or [None]:
                here = within[within["conditions"] == conditions]
                measured = {m: _measure(here, dataset, category, m) for m in metrics}
                row = {metric: Cell(printed.get(metric), measured[metric], scale) for metric in metrics}
                yield Row(dataset, setting, category, conditions, row, _n(here, measured))


def other_rows(own: pd.DataFrame, runs: pd.DataFrame, scale: int) -> Iterator[Row]:
    """Runs that are none of the printed settings, with an average where they are of several categories."""
    metrics = [metric for metric in own["metric"].unique() if metric not in published.UNITS]
    others = runs[~runs["printed"]]
    for (dataset, setting, conditions), found in others.groupby(["dataset", "setting", "conditions"], sort=False):
        names = list(found["category"].unique())
        for category in [*names, *(["average"] if len(names) > 1 else [])]:
            here = found if category == "average" else found[found["category"] == category]
            measured = {metric: _measure(here, dataset, category, metric) for metric in metrics}
            row = {metric: Cell(None, measured[metric], scale) for metric in metrics}
            yield Row(dataset, setting, category, conditions, row, _n(here, measured))


def _unprinted(dataset: str, printed: list[str], runs: pd.DataFrame) -> list[str]:
    wanted = averages(dataset).get("average", [])
    more = set(runs["category"]) - set(printed)
    if wanted and more >= set(wanted):
        more -= set(wanted)
    return [name for name in wanted if name in more] + sorted(more - set(wanted))


def _measure(runs: pd.DataFrame, dataset: str, category: str, metric: str) -> Measured | None:
    if metric in published.UNITS:
        return None
    if category.startswith("average"):
        # Of a set whose classes no paper lists, those that were run.
        return over_categories(runs, metric, averages(dataset).get(category) or sorted(runs["category"].unique()))
    return over_seeds(runs, metric)


def _n(runs: pd.DataFrame, measured: dict[str, Measured | None]) -> str:
    return count_seeds(max((found.n for found in measured.values() if found), default=(0, 0)), runs)
