"""The cells of a paper's table: what is printed in each, and what runs have measured for it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdad import published
from kdad.results.statistics import Measured, average_categories, average_seeds, count_seeds, list_averages

NOT_MEASURED = Measured(gap="not measured")  # of costs


@dataclass
class Cell:
    """A printed figure (a row of `published.load_table`, None where there is none) and what runs measured for it."""

    printed: dict[str, Any] | None
    measured: Measured
    scale: int

    @property
    def is_known(self) -> bool:
        """Whether the paper has a figure here, and the sources available show it."""
        return self.printed is not None and self.printed["status"] == "printed"

    @property
    def published(self) -> str:
        """The digits as printed, `unknown`, or nothing."""
        return "" if self.printed is None else self.printed["value"] if self.is_known else "unknown"

    @property
    def spread(self) -> str:
        """The digits printed behind a plus-minus sign, or nothing."""
        return self.printed["spread"] if self.printed else ""

    @property
    def difference(self) -> float:
        """Measured - published, in the printed unit; NaN unless both are means over the same categories."""
        if not self.is_known or self.measured.gap or self.measured.absent:
            return math.nan
        return self.measured.mean * self.scale - float(self.published)


@dataclass
class Row:
    """One printed setting and category under one set of conditions (None: no run), or one that is not printed."""

    dataset: str
    setting: str
    category: str
    conditions: str | None
    cells: dict[str, Cell]
    n: str

    @property
    def is_average(self) -> bool:
        """Whether this is a mean over categories."""
        return self.category.startswith("average")

    @property
    def absent(self) -> tuple[str, ...]:
        """The categories that an average leaves out, though it is over some others."""
        cells = [cell.measured for cell in self.cells.values()]
        return next((measured.absent for measured in cells if measured.absent and not measured.gap), ())

    def list_records(self, about: dict[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the cells for a CSV file: unrounded, in the printed unit. `about` is the table's row of the index."""
        for metric, cell in self.cells.items():
            measured = cell.measured
            if cell.printed is None and measured.gap:
                continue
            status = measured.gap or (f"without {' '.join(measured.absent)}" if measured.absent else "ok")
            yield {
                "paper": about["paper"], "table": about["table"], "method": about["paper"].upper(),
                "dataset": self.dataset, "setting": self.setting, "category": self.category,
                "conditions": self.conditions or "", "metric": metric,
                "unit": published.UNITS.get(metric, about["unit"]), "published": cell.published,
                "published_spread": cell.spread,
                "measured": round(measured.mean * cell.scale, 6), "spread": round(measured.spread * cell.scale, 6),
                "n": measured.n[0], "difference": round(cell.difference, 6), "status": status,
            }  # fmt: skip


def fill_printed_rows(own: pd.DataFrame, runs: pd.DataFrame, scale: int) -> Iterator[Row]:
    """Yield the rows of a table, setting by setting, once for each of the conditions under which they were run.

    Categories that the table does not print have rows too, unless all that a printed mean is over are there.
    """
    for names, cells in own.groupby(["dataset", "setting"], sort=False):
        dataset, setting = map(str, names)
        mine = runs[(runs["dataset"] == dataset) & (runs["setting"] == setting) & runs["printed"]]
        categories = list(cells["category"].unique())
        for category in [*_list_unprinted(dataset, categories, mine), *categories]:
            printed = {cell["metric"]: cell for cell in cells[cells["category"] == category].to_dict("records")}
            within = mine if category.startswith("average") else mine[mine["category"] == category]
            # A row that the table has is as wide as there; any other has what was measured.
            metrics = [m for m in own["metric"].unique() if m in printed or (not printed and m not in published.UNITS)]
            for conditions in list(within["conditions"].unique()) or [None]:
                here = within[within["conditions"] == conditions]
                row = {m: Cell(printed.get(m), _measure(here, dataset, category, m), scale) for m in metrics}
                yield Row(dataset, setting, category, conditions, row, _count_seeds(here, row))


def fill_other_rows(own: pd.DataFrame, runs: pd.DataFrame, scale: int) -> Iterator[Row]:
    """Yield rows of the runs whose setting is not printed.

    Where they are of several categories, the last is their average.
    """
    metrics = [metric for metric in own["metric"].unique() if metric not in published.UNITS]
    others = runs[~runs["printed"]]
    for names, mine in others.groupby(["dataset", "setting", "conditions"], sort=False):
        dataset, setting, conditions = map(str, names)
        categories = list(mine["category"].unique())
        for category in [*categories, *(["average"] if len(categories) > 1 else [])]:
            here = mine if category == "average" else mine[mine["category"] == category]
            row = {metric: Cell(None, _measure(here, dataset, category, metric), scale) for metric in metrics}
            yield Row(dataset, setting, category, conditions, row, _count_seeds(here, row))


def _list_unprinted(dataset: str, printed: list[str], runs: pd.DataFrame) -> list[str]:
    """Return the categories that runs have and the table does not print, in the papers' order."""
    wanted = list_averages(dataset).get("average", [])
    more = set(runs["category"]) - set(printed)
    if wanted and more >= set(wanted):
        more -= set(wanted)
    return [name for name in wanted if name in more] + sorted(more - set(wanted))


def _measure(runs: pd.DataFrame, dataset: str, category: str, metric: str) -> Measured:
    if metric in published.UNITS:
        return NOT_MEASURED
    if category.startswith("average"):
        # Of a set whose classes no paper lists, those that were run.
        wanted = list_averages(dataset).get(category) or sorted(runs["category"].unique())
        return average_categories(runs, metric, wanted)
    return average_seeds(runs, metric)


def _count_seeds(runs: pd.DataFrame, row: dict[str, Cell]) -> str:
    return count_seeds(max((cell.measured.n for cell in row.values()), default=(0, 0)), runs)
