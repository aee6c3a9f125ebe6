"""One table of a paper: published beside measured, cell by cell."""

import math
from collections import Counter
from dataclasses import dataclass
from string import ascii_lowercase

import pandas as pd

from kdad import published
from kdad.report.cells import Cell, Row, fill_other_rows, fill_printed_rows
from kdad.report.writers import Report, Table
from kdad.results.settings import assign_runs
from kdad.results.statistics import drop_repeats, list_averages
from kdad.results.words import AVERAGES, describe_repeats, list_causes, name_metric, name_missing_categories

DIGITS = {"percent": [1], "fraction": [3]}  # where no figure is known
SIGNS = {"percent": " (%)", "fraction": ""}
NONE = "–"  # nothing is printed, or nothing can be compared
OTHERS = "Runs of this detector beyond the printed settings"
HOW = (
    "measured: mean ± sample standard deviation over n seeds; difference: measured - published, in the printed unit, "
    "but not of an average that lacks categories."
)


def make_paper_report(paper: str, table: int | str, runs: pd.DataFrame, quoted: bool = False) -> Report:
    """Make a report of one table of a paper, with what `runs` have measured for each cell.

    `runs` are those of `read_runs`; without any, the published column stands alone. `quoted` adds the figures of
    others that the paper prints. Raises `UserError` for an unknown paper or table.
    """
    about, printed = published.describe_table(paper, table), published.load_table(paper, table)
    table = about["table"]
    own, others = printed[printed["own"]], printed[~printed["own"]]
    assigned, remarks = assign_runs(paper, own, runs)
    counted, left_out = drop_repeats(assigned, ["dataset", "setting", "conditions", "category", "seed"])
    scale = published.SCALES[about["unit"]]
    rows, more = list(fill_printed_rows(own, counted, scale)), list(fill_other_rows(own, counted, scale))
    sheet = Sheet(about, own, list(counted["conditions"].unique()))
    cells = [record for row in (*rows, *more) for record in row.list_records(about)]
    tables = [sheet.lay_out_printed(rows)]
    if more and sheet.scores:
        tables.append(sheet.lay_out_others(more))
    if quoted:
        tables += [lay_out_quoted(others[others["metric"] == metric]) for metric in others["metric"].unique()]
        cells += list_quoted_records(others)
    name = f"Table {table}" if table.isdigit() else table.replace("figure", "Figure ").replace("text", "running text")
    return Report(
        name=f"{paper}_{'table' if table.isdigit() else ''}{table}",
        title=f"{paper.upper()}, {name}: {about['title']}",
        tables=tables,
        notes=[
            f"Published: {published.PAPERS[paper]}.",
            *sheet.write_notes(rows, more),
            *list_causes(counted),
            *describe_repeats(left_out),
            *remarks,
            *runs.attrs.get("skipped", []),
        ],
        cells=pd.DataFrame(cells).astype({"n": "Int64"}),
    )


def has_printed_runs(paper: str, table: str, runs: pd.DataFrame) -> bool:
    """Return whether some run has a printed setting of a table, much sooner than its report is made."""
    printed = published.load_table(paper, table)
    return bool(assign_runs(paper, printed[printed["own"]], runs)[0]["printed"].any())


@dataclass
class Sheet:
    """How a table is laid out; `conditions` are all those of its runs."""

    about: dict[str, str]
    own: pd.DataFrame
    conditions: list[str]

    def __post_init__(self) -> None:
        self.metrics = list(self.own["metric"].unique())
        self.scores = [metric for metric in self.metrics if metric not in published.UNITS]
        self.digits = {metric: self._count_digits(metric) for metric in self.metrics}
        self.conditions = sorted(self.conditions, key=bool)  # the paper's own, without text, come first
        self.labels = {
            "data set": self.own["dataset"].nunique() > 1,
            self.about["setting"]: bool((self.own["setting"] != "").any()),
            "category": bool((self.own["category"] != "all").any()),
            "runs": len(self.conditions) > 1,
        }

    def _count_digits(self, metric: str) -> int:
        """Return the commonest number of decimals, since a paper prints 100 in a column of tenths."""
        values = self.own.loc[self.own["metric"] == metric, "value"].dropna()
        places = Counter(len(value.partition(".")[2]) for value in values)
        return max(places or DIGITS[self.about["unit"]], key=lambda d: (places[d], d))

    def lay_out_printed(self, rows: list[Row]) -> Table:
        """Lay out the printed rows: published, measured and difference of each metric; of costs published alone."""
        head = [("", label) for label, shown in self.labels.items() if shown]
        labels = len(head)
        for metric in self.metrics:
            columns = ("published", "measured", "difference") if metric in self.scores else ("published",)
            head += [(self._name_metric(metric), column) for column in columns]
        lines = [
            [*self._label_row(row, self.labels), *(text for m in self.metrics for text in self._write_cell(row, m))]
            for row in rows
        ]
        rules = {
            index
            for index in range(1, len(rows))
            if (rows[index].dataset, rows[index].setting) != (rows[index - 1].dataset, rows[index - 1].setting)
        }
        if self.scores:
            head.append(("", "n"))
            lines = [[*line, row.n] for line, row in zip(lines, rows, strict=True)]
        return Table("", head, labels, lines, rules if len(rules) < len(rows) - 1 else set())

    def lay_out_others(self, rows: list[Row]) -> Table:
        """Lay out the runs whose values of the method's keys match no printed setting."""
        labels = self.labels | {"category": True}
        labels = {"setting" if label == self.about["setting"] else label: shown for label, shown in labels.items()}
        labels["setting"] = True
        head = [("", label) for label, shown in labels.items() if shown]
        lines = [
            [*self._label_row(row, labels), *(self._write_measured(row.cells[m], m) for m in self.scores), row.n]
            for row in rows
        ]
        return Table(OTHERS, [*head, *(("", self._name_metric(m)) for m in self.scores), ("", "n")], len(head), lines)

    def _label_row(self, row: Row, labels: dict[str, bool]) -> list[str]:
        mark = NONE if row.conditions is None else self._find_mark(row.conditions)
        texts = (row.dataset, row.setting, AVERAGES.get(row.category, row.category), mark)
        return [text for text, shown in zip(texts, labels.values(), strict=True) if shown]

    def _find_mark(self, conditions: str) -> str:
        """Return the letter that stands for these conditions."""
        index = self.conditions.index(conditions)
        return ascii_lowercase[index] if index < 26 else str(index + 1)

    def _name_metric(self, metric: str) -> str:
        unit = f" ({published.UNITS[metric]})" if metric in published.UNITS else SIGNS[self.about["unit"]]
        return name_metric(metric) + unit

    def _write_cell(self, row: Row, metric: str) -> list[str]:
        """Write what is published, measured and their difference; of a cost what is published."""
        cell = row.cells.get(metric)
        if metric not in self.scores:
            return [cell.published if cell else NONE]
        if cell is None:
            return [NONE] * 3
        spread = f" ± {cell.spread}" if cell.spread else ""
        difference = format_difference(cell.difference, self.digits[metric])
        return [cell.published + spread or NONE, self._write_measured(cell, metric), difference]

    def _write_measured(self, cell: Cell, metric: str) -> str:
        return cell.measured.format(cell.scale, self.digits[metric])

    def write_notes(self, rows: list[Row], more: list[Row]) -> list[str]:
        """Write the notes under the tables: how to read them, the conditions of the runs, and what is missing."""
        notes = [f"As printed: {self.about['note']}."] if self.about["note"] else []
        if (self.own["status"] == "unknown").any():
            notes.append("unknown: the sources available do not show the cell.")
        if len(self.scores) < len(self.metrics):
            notes.append("Costs are shown as published; runs do not measure them in the papers' way.")
        if self.conditions:
            notes.append(HOW)
        for text in self.conditions:
            mark = f"Runs {self._find_mark(text)}" if self.labels["runs"] else "The runs"
            recipe = "the paper's recipe" + (f" but for {text}" if text else "")
            run = {row.setting for row in rows if row.conditions is not None}
            lacking = run - {row.setting for row in rows if row.conditions == text}
            names = [name for name in self.own["setting"].unique() if name in lacking]
            notes.append(f"{mark}: {recipe}" + (f"; missing: {', '.join(names)}." if names else "."))
        partial: dict[str, list[str]] = {}
        for row in (*rows, *more):
            if row.absent and row.conditions is not None:
                where = [row.setting, self._find_mark(row.conditions) if self.labels["runs"] else ""]
                text = name_missing_categories(row.category, list_averages(row.dataset)[row.category], row.absent)
                partial.setdefault(text, []).append(" ".join(filter(None, where)))
        notes += [f"{text} ({'; '.join(where)})" if any(where) else text for text, where in partial.items()]
        for dataset in dict.fromkeys(row.dataset for row in rows if row.is_average and row.conditions is not None):
            if not list_averages(dataset):
                notes.append(f"The average of {dataset} is over the classes that were run: no paper lists them.")
        return notes


def format_difference(difference: float, digits: int) -> str:
    """Write a difference with its sign, and without one where it rounds to zero."""
    text = f"{difference:+.{digits}f}"
    return NONE if math.isnan(difference) else text if float(text) else f"{0:.{digits}f}"


def lay_out_quoted(cells: pd.DataFrame) -> Table:
    """Lay out one metric of the methods that a paper compares itself with, a column each, as printed."""
    several = cells["dataset"].nunique() > 1
    methods = list(cells[["method", "setting"]].drop_duplicates().itertuples(index=False, name=None))
    values = cells["value"].fillna("unknown") + cells["spread"].map(lambda spread: f" ± {spread}" if spread else "")
    keys = zip(*(cells[column] for column in ("dataset", "category", "method", "setting")), strict=True)
    known = dict(zip(keys, values, strict=True))
    places = dict.fromkeys(zip(cells["dataset"], cells["category"], strict=True))
    rows = [
        [dataset] * several + [AVERAGES.get(name, name), *(known.get((dataset, name, *m), NONE) for m in methods)]
        for dataset, name in places
    ]
    head = [("", "data set")] * several + [("", "category")]
    head += [("", f"{method} ({setting})" if setting else method) for method, setting in methods]
    metric, unit = cells["metric"].iloc[0], cells["unit"].iloc[0]
    return Table(f"Quoted by the paper: {name_metric(metric)}, {unit}", head, 1 + several, rows)


def list_quoted_records(cells: pd.DataFrame) -> list[dict[str, str]]:
    """Return the figures of other methods that a paper quotes, for a CSV file."""
    keys = ["paper", "table", "method", "dataset", "setting", "category", "metric", "unit"]
    named = cells.assign(published=cells["value"].fillna("unknown"), published_spread=cells["spread"], status="quoted")
    records = named[[*keys, "published", "published_spread", "status"]].to_dict("records")
    return [{str(key): text for key, text in record.items()} for record in records]
