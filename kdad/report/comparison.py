"""Detectors compared: differences with intervals and tests, and mean ranks, as a report."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from kdad.report.study import PERCENT, Block, group_blocks
from kdad.report.writers import Report, Table
from kdad.results.comparison import ALPHA, OF_IMAGES, Difference, Ranking, compare_pairs, find_least_p, rank_detectors
from kdad.results.read import METRICS
from kdad.results.words import format_settings, name_metric

HEAD = (
    "first", "second", "metric", "categories", "seeds", "difference (pp)", "95 % interval", "over", "better", "worse",
    "equal", "p", "p (Holm)",
)  # fmt: skip
HOW = (
    "Difference: first minus second in percentage points, the mean over categories of the mean over the seeds that "
    "both have. Interval: 95 %, percentiles of a bootstrap over what is named. p: Wilcoxon's signed ranks over "
    "categories, two-sided; Holm: corrected for all pairs of a metric. Ranks: 1 is best, mean over the categories that "
    "all have; by Nemenyi's test at 0.05, detectors whose mean ranks differ by less than the critical difference are "
    "not told apart."
)


def make_comparison(runs: pd.DataFrame, metrics: Sequence[str] = METRICS) -> Report:
    """Make a report that compares every two detectors or settings over the categories and seeds that both were run on.

    Data sets count together: each of their categories is one.
    """
    blocks, _, _, _, shared, remarks = group_blocks(runs, metrics, across=True)
    named = name_detectors(blocks)
    notes = [HOW, *([f"All runs: {format_settings(shared)}."] if shared else []), *remarks]
    lines: list[list[str]] = []
    ranked: list[list[str]] = []
    records: list[dict[str, Any]] = []
    for metric in metrics:
        pairs = compare_pairs(named, metric)
        lines += [write_pair(pair, metric) for pair in pairs]
        records += [describe_pair(pair, metric) for pair in pairs]
        if ranking := rank_detectors(named, metric):
            ranked += write_ranking(ranking, metric)
        notes += [warning for warning in warn(pairs, metric) if warning not in notes]
    notes += describe_alone(named, {name for line in lines for name in line[:2]})
    if not lines:
        notes.append("No two detectors or settings share a category and a seed: there is nothing to compare.")
    tables = [Table("", [("", name) for name in HEAD], 3, lines)]
    if ranked:
        head = (
            "metric",
            "detector",
            "mean rank",
            "categories",
            "p (Friedman)",
            "critical difference",
            "not told apart from",
        )
        tables.append(Table("Mean ranks", [("", name) for name in head], 2, ranked))
    notes += [f"{name}: {settings}" for name, settings in list_settings(blocks).items() if settings]
    notes += [*describe_unfinished(runs), *runs.attrs.get("skipped", [])]
    return Report("comparison", "Comparison", tables, notes, pd.DataFrame(records))


def describe_unfinished(runs: pd.DataFrame) -> list[str]:
    """Return a note on the runs without results, which nothing is compared with; none where all have some."""
    count = runs.loc[runs["status"] != "ok", "status"].value_counts()
    told = ", ".join(f"{n} {status}" for status, n in count.items())
    return [f"Not compared: {told}. kdad report without --compare says why."] if told else []


def describe_alone(named: dict[str, pd.DataFrame], compared: set[str]) -> list[str]:
    """Return notes on data sets that one detector alone was run on, and on detectors that nothing is compared with.

    `compared` are the names of those that something is.
    """
    runs = pd.concat([rows.assign(detector=name) for name, rows in named.items()]) if named else pd.DataFrame()
    if runs.empty or len(named) < 2:
        return []
    runs = runs[runs["status"] == "ok"]
    counts = runs.groupby("dataset")["detector"].nunique()
    alone = [str(name) for name, count in counts.items() if count < 2]
    apart = [name for name in dict.fromkeys(runs[~runs["dataset"].isin(alone)]["detector"]) if name not in compared]
    notes = [f"Of {', '.join(alone)} there are runs of one detector or setting alone: not compared."] if alone else []
    if apart and compared:  # where nothing is compared a note says that
        notes.append(f"{', '.join(apart)}: not compared, since no other run shares a category and a seed.")
    return notes


def name_detectors(blocks: list[Block]) -> dict[str, pd.DataFrame]:
    """Return the runs of each detector and setting, over all data sets, by a name of its own."""
    named: dict[str, list[pd.DataFrame]] = {}
    for name, block in zip(name_settings(blocks), blocks, strict=True):
        named.setdefault(name, []).append(block.rows)
    return {name: pd.concat(rows) for name, rows in named.items()}


def name_settings(blocks: list[Block]) -> list[str]:
    """Name blocks by detector, numbered by their settings where a detector has several."""
    settings: dict[str, list[str]] = {}
    for block in blocks:
        if block.settings not in settings.setdefault(block.model, []):
            settings[block.model].append(block.settings)
    return [
        f"{block.model} {settings[block.model].index(block.settings) + 1}"
        if len(settings[block.model]) > 1 else block.model for block in blocks
    ]  # fmt: skip


def list_settings(blocks: list[Block]) -> dict[str, str]:
    """Return what each detector's name stands for."""
    return dict(zip(name_settings(blocks), (block.settings for block in blocks), strict=True))


def write_pair(pair: Difference, metric: str) -> list[str]:
    """Write a difference as a line of the table."""
    least, most = pair.seeds
    interval = "none" if math.isnan(pair.low) else f"{PERCENT * pair.low:+.2f} to {PERCENT * pair.high:+.2f}"
    return [
        pair.first, pair.second, name_metric(metric), str(pair.categories),
        str(most) if least == most else f"{least}-{most}",
        f"{PERCENT * pair.mean:+.2f}", interval, pair.over, str(pair.better), str(pair.worse), str(pair.equal),
        write_p(pair.p), write_p(pair.corrected),
    ]  # fmt: skip


def describe_pair(pair: Difference, metric: str) -> dict[str, Any]:
    """Return a difference unrounded, in percentage points, for a CSV file."""
    return {
        "first": pair.first, "second": pair.second, "metric": metric, "categories": pair.categories,
        "seeds_least": pair.seeds[0], "seeds_most": pair.seeds[1], "difference": PERCENT * pair.mean,
        "low": PERCENT * pair.low, "high": PERCENT * pair.high, "over": pair.over, "better": pair.better,
        "worse": pair.worse, "equal": pair.equal, "p": pair.p, "p_holm": pair.corrected,
    }  # fmt: skip


def write_ranking(ranking: Ranking, metric: str) -> list[list[str]]:
    """Write mean ranks as lines of a table, the best first."""
    lines = []
    for name, rank in ranking.ranks.items():
        others = {other for group in ranking.alike if name in group for other in group} - {name}
        told = ", ".join(other for other in ranking.ranks if other in others)
        critical = "" if math.isnan(ranking.critical) else f"{ranking.critical:.2f}"
        lines.append(
            [name_metric(metric), name, f"{rank:.2f}", str(ranking.categories), write_p(ranking.p), critical, told]
        )
    return lines


def write_p(p: float) -> str:
    """Write a p-value, or nothing."""
    return "" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def warn(pairs: list[Difference], metric: str) -> list[str]:
    """Return sentences on comparisons that are over too little to tell."""
    said = []
    few = {pair.categories for pair in pairs if find_least_p(pair.categories) > ALPHA}
    for n in sorted(few):
        of = "1 category" if n == 1 else f"{n} categories"
        said.append(
            f"{of}: too few for a test. However large the differences, Wilcoxon's p would be no less than "
            f"{find_least_p(n):.2g}; 6 categories can reach {ALPHA:g}."
        )
    if any(pair.seeds[0] == 1 for pair in pairs):
        said.append("Where there is one seed, what another would have changed is not known: run at least three.")
    elif any(pair.seeds[0] < 3 for pair in pairs):
        said.append("Two seeds tell little of what further ones would change: run at least three.")
    few_seeds = {pair.seeds[0] for pair in pairs if pair.over == "seeds" and 2.0 ** (1 - pair.seeds[0]) > ALPHA}
    for n in sorted(few_seeds):
        said.append(
            f"An interval over {n} seeds alone leaves out 0 whenever all {n} differences have one sign, which "
            f"chance does in {200 / 2**n:.3g} % of cases: it is no test."
        )
    if any(math.isnan(pair.low) for pair in pairs):
        said.append(
            f"{name_metric(metric)}: no interval of one run each, whose pixels are not kept: "
            "run further seeds or categories."
            if metric not in OF_IMAGES
            else f"{name_metric(metric)}: one run each and no scores of the same images: no interval."
        )
    return said
