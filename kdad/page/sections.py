"""Sections of the page that are made of figures and tables: comparison, forms, robustness."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pandas as pd

from kdad.errors import UserError
from kdad.figures.ranks import draw_ranks
from kdad.figures.robustness import ALARMS, draw_robustness, measure_changes, name_change, read_corruptions
from kdad.page.embedded import encode_svg
from kdad.report.comparison import HOW, make_comparison, name_detectors
from kdad.report.forms import HOW_PAIRED, tabulate_forms
from kdad.report.study import group_blocks
from kdad.report.writers import Table
from kdad.results.comparison import rank_detectors
from kdad.results.series import is_corrupted
from kdad.results.words import name_metric

MOST = 12  # detectors and settings whose pairs are compared: there are 66 of them

ROBUSTNESS = "robustness"


@dataclass
class Section:
    """A heading with figures (each `uri`, `alt` and whether it is `wide`), tables and notes under it."""

    id: str
    title: str
    text: str
    figures: list[dict[str, str | bool]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_sections(runs: pd.DataFrame, metrics: Sequence[str]) -> Iterator[Section]:
    """Yield the sections in which there is something to show."""
    clean = runs[~is_corrupted(runs)]
    makers = (lambda: compare(clean, metrics), lambda: pair_forms(clean, metrics), lambda: list_changes(runs, metrics))
    yield from filter(None, (make() for make in makers))


def has_robustness(sections: Sequence[Section]) -> bool:
    """Return whether one of the sections shows the corrupted tests."""
    return any(section.id == ROBUSTNESS for section in sections)


def compare(runs: pd.DataFrame, metrics: Sequence[str]) -> Section | None:
    """Make the section of mean ranks, and of differences between every two detectors or settings.

    None where no two share a category and a seed.
    """
    named = name_detectors(group_blocks(runs, metrics, across=True).blocks) if len(runs) else {}
    if len(named) < 2:
        return None
    made = Section("comparison", "Comparison", "What the differences between detectors and settings are worth.")
    for metric in metrics:
        if ranking := rank_detectors(named, metric):
            ranks = ", ".join(f"{name} {rank:.2f}" for name, rank in ranking.ranks.items())
            alt = f"Critical-difference diagram: mean ranks in {name_metric(metric)}: {ranks}"
            made.figures.append({"uri": encode_svg(draw_ranks(named, metric)), "alt": alt, "wide": False})
    if len(named) > MOST:
        made.notes = [HOW, f"{len(named)} detectors and settings: kdad report --compare has the table of their pairs."]
    else:
        report = make_comparison(runs, metrics)
        made.tables = [table for table in report.tables if table.rows]
        made.notes = report.notes
    return made if made.tables or made.figures else None


def pair_forms(runs: pd.DataFrame, metrics: Sequence[str]) -> Section | None:
    """Make the section of the paper's form beside the released code's; None where no detector was run in both."""
    table = tabulate_forms(runs, metrics) if len(runs) else None
    return Section("forms", "Paper and released code", HOW_PAIRED, tables=[table]) if table else None


def list_changes(runs: pd.DataFrame, metrics: Sequence[str]) -> Section | None:
    """Make the section of what corruptions change; None where no corrupted test has a clean one beside it."""
    complete = runs[runs["status"] == "ok"]
    if not is_corrupted(complete).any():
        return None
    try:
        figure = draw_robustness(complete, metrics)
    except UserError:  # no pair
        return None
    text = (
        "Tests with corruption= beside the same weights' clean test: change in percentage points, mean over categories "
        "and seeds. Red is worse. Thresholds are those of clean training images."
    )
    alt = "Heat maps of the changes that the table below lists"
    made = Section(ROBUSTNESS, "Robustness", text, [{"uri": encode_svg(figure), "alt": alt, "wide": True}])
    made.tables = [tabulate_changes(read_corruptions(complete), metrics)]
    return made


def tabulate_changes(table: pd.DataFrame, metrics: Sequence[str]) -> Table:
    """Return a table of the changes that the heat maps show: a line for each detector, corruption and severity."""
    shown = [*metrics, *([ALARMS] if ALARMS in table else [])]
    lines: list[list[str]] = []
    rules: set[int] = set()
    for name, rows in table.groupby("detector", sort=False):
        changes = {metric: measure_changes(rows, metric) for metric in shown if is_corrupted(rows).any()}
        rules |= {len(lines)} if changes and lines else set()
        for corruption in changes[shown[0]].index if changes else ():
            for severity in changes[shown[0]].columns:
                cells = pd.Series([changes[metric].at[corruption, severity] for metric in shown], dtype=float)
                if cells.notna().any():
                    texts = ["" if math.isnan(cell) else f"{cell:+.2f}" for cell in cells.tolist()]
                    lines.append([str(name), str(corruption), str(severity), *texts])
    head = [("", name) for name in ("detector", "corruption", "severity", *(f"{name_change(m)} (pp)" for m in shown))]
    return Table("", head, 3, lines, rules)
