"""A detector as its paper prints it beside what its released code does, where both were run."""

from collections.abc import Sequence

import pandas as pd

from kdad.report.study import DIGITS, PERCENT, group_blocks
from kdad.report.writers import Table
from kdad.results.forms import mark_forms
from kdad.results.settings import PAPER, RELEASED
from kdad.results.words import AVERAGES, name_metric

HOW_PAIRED = (
    "Means over the seeds that both forms were run with, in percent; the difference is released minus paper, in "
    "percentage points. All else is equal. What the forms are: conf/forms/released."
)


def tabulate_forms(runs: pd.DataFrame, metrics: Sequence[str]) -> Table | None:
    """Return a table of both forms of each detector: a line per category, and their average; None without a pair."""
    counted = group_blocks(runs, metrics).counted
    marked = mark_forms(counted[counted["status"] == "ok"])
    lines: list[list[str]] = []
    rules: set[int] = set()
    for (model, dataset, _), rows in marked.groupby(["model", "dataset", "besides"], sort=False):
        pairs = rows.pivot(index=["category", "seed"], columns="form", values=list(metrics))
        if {PAPER, RELEASED} <= set(rows["form"]) and not (both := _keep_pairs(pairs, metrics)).empty:
            rules |= {len(lines)} if lines else set()
            means = both.groupby(level="category", sort=False).mean()
            counts = both.groupby(level="category", sort=False).size().astype(str).to_dict()
            if len(means) > 1:
                means.loc["average"] = means.mean()
                several = sorted(set(counts.values()), key=int)
                counts["average"] = "-".join(dict.fromkeys([several[0], several[-1]]))
            for category, values in means.iterrows():
                cells = [cell for metric in metrics for cell in _write_pair(values[metric])]
                names = [str(model), str(dataset), rows["settings"].iloc[0], AVERAGES.get(str(category), str(category))]
                lines.append([*names, *cells, counts[str(category)]])
    parts = [(f"{name_metric(metric)} (%)", part) for metric in metrics for part in (PAPER, RELEASED, "difference")]
    head = [*(("", name) for name in ("model", "data set", "settings", "category")), *parts, ("", "n")]
    return Table("", head, 4, lines, rules) if lines else None


def _keep_pairs(pairs: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the categories and seeds that both forms have some metric of."""
    known = pd.DataFrame({m: pairs[m, PAPER].notna() & pairs[m, RELEASED].notna() for m in metrics})
    return pairs[known.any(axis="columns")]


def _write_pair(values: pd.Series) -> list[str]:
    paper, released = (PERCENT * values[form] for form in (PAPER, RELEASED))
    if pd.isna(paper) or pd.isna(released):
        return ["n/a"] * 3
    return [f"{paper:.{DIGITS}f}", f"{released:.{DIGITS}f}", f"{released - paper:+.{DIGITS}f}"]
