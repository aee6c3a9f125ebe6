"""A table of what other protocols make of the same anomaly maps."""

from collections.abc import Sequence

import pandas as pd

from kdad.report.writers import Table
from kdad.results.read import BY_PROTOCOL
from kdad.results.words import AVERAGES, name_metric

HOW_COUNTED = (
    "By other protocols: the same maps counted as another paper's code does. These numbers are not comparable with any "
    "other table here; a difference, in points, is what the protocol alone is worth."
)


def tabulate_protocols(
    named: Sequence[tuple[list[str], pd.DataFrame]], metrics: Sequence[str]
) -> tuple[list[Table], list[str]]:
    """Return a table of runs counted by other protocols, means over seeds, and notes; none where no run was.

    `named`: detector, data set and settings, with the runs of them. A mean is over the runs that have both numbers; in
    a line of the average, over the categories.
    """
    every = dict.fromkeys(str(column) for _, rows in named for column in rows.columns)
    columns = [column for column in every if BY_PROTOCOL.fullmatch(column)]
    protocols = list(dict.fromkeys(column.partition("@")[2] for column in columns))
    shown = [m for m in metrics if any(f"{m}@{protocol}" in columns for protocol in protocols)]
    lines: list[list[str]] = []
    notes: dict[str, None] = {}
    for names, rows in named:
        for protocol in protocols:
            about = f"protocol@{protocol}"
            counted = rows[rows[about].notna()] if about in rows else rows[:0]
            if counted.empty:
                continue
            notes |= {f"{protocol}: {text or 'nothing is counted otherwise'}.": None for text in counted[about]}
            means = [_average_seeds(counted, metric, protocol) for metric in shown]
            for category in dict.fromkeys(counted["category"]):
                cells = [cell for mean in means for cell in _format(mean.loc[category])]
                lines.append([*names, str(category), protocol, *cells])
            if means and len(means[0]) > 1:
                cells = [cell for mean in means for cell in _format(mean.mean(skipna=False))]
                lines.append([*names, AVERAGES["average"], protocol, *cells])
    if not lines or not shown:
        return [], []
    head = [("", name) for name in ("model", "data set", "settings", "category", "protocol")]
    head += [(f"{name_metric(metric)} (%)", part) for metric in shown for part in ("ours", "theirs", "difference")]
    return [Table("By other protocols", head, 5, lines)], [HOW_COUNTED, *notes]


def _average_seeds(runs: pd.DataFrame, metric: str, protocol: str) -> pd.DataFrame:
    """Return the means over seeds of both numbers, in columns `ours` and `theirs`, by category."""
    other = runs.get(f"{metric}@{protocol}")
    table = pd.DataFrame({"ours": runs[metric], "theirs": other if other is not None else float("nan")})
    return table.where(table.notna().all(axis=1)).groupby(runs["category"], sort=False).mean()


def _format(pair: pd.Series) -> list[str]:
    if pair.isna().any():
        return ["n/a"] * 3
    ours, theirs = 100 * pair["ours"], 100 * pair["theirs"]
    return [f"{ours:.2f}", f"{theirs:.2f}", f"{theirs - ours:+.2f}"]
