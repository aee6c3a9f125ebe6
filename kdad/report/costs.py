"""What detectors cost beside what they find, as a table of points, and which of them are on the Pareto front."""

import math
from collections.abc import Sequence

import pandas as pd

from kdad.report.comparison import name_settings
from kdad.report.study import PERCENT, Block
from kdad.results.series import print_remark
from kdad.results.statistics import average_categories
from kdad.results.words import name_metric


def find_front(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Return of each point whether it is on the Pareto front: no other is as cheap and as good, and better in one.

    Points that are equal in both are on it together or not at all. A point that lacks a value never is, nor does it
    keep another one off.
    """
    points = list(zip(costs, values, strict=True))
    return [
        not (math.isnan(cost) or math.isnan(value))
        and not any(c <= cost and v >= value and (c < cost or v > value) for c, v in points)
        for cost, value in points
    ]


def tabulate_points(blocks: list[Block], costs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Set a metric of each detector, setting and data set against its cost.

    `costs` has a run's `cost` by its index, and maybe the quartiles `low` and `high`; runs that are not in it do not
    count. Both are means over seeds, then over the categories that all detectors of the data set have. Returns a row
    for each: dataset, detector (its short name), model, settings, categories, seeds (the least), value and spread
    over seeds in percent, cost, low, high (one standard deviation away where there are no quartiles), front. What has
    no value is left out with a remark.
    """
    counted: dict[str, list[tuple[str, Block, pd.DataFrame]]] = {}
    for name, block in zip(name_settings(blocks), blocks, strict=True):
        rows = block.rows.join(costs, how="inner")
        if rows.empty:  # each of its runs was remarked on
            continue
        rows = rows.dropna(subset=[metric])
        if rows.empty:
            print_remark(f"left out: {name} on {block.dataset} has no {name_metric(metric)}")
            continue
        counted.setdefault(block.dataset, []).append((name, block, rows))
    tables = []
    for dataset, several in counted.items():
        having = [set(rows["category"]) for _, _, rows in several]
        shared = sorted(set.intersection(*having))
        if not shared:
            print_remark(f"left out: {dataset}, where the detectors have no category in common")
            continue
        if more := set.union(*having) - set(shared):
            print_remark(f"{dataset}: {', '.join(sorted(more))} left out, which not all detectors have")
        points = pd.DataFrame([_measure(name, block, rows, metric, shared) for name, block, rows in several])
        tables.append(points.assign(front=find_front(points["cost"].tolist(), points["value"].tolist())))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _measure(name: str, block: Block, rows: pd.DataFrame, metric: str, shared: list[str]) -> dict[str, object]:
    value, cost = (average_categories(rows, key, shared) for key in (metric, "cost"))
    low, high = cost.mean - cost.spread, cost.mean + cost.spread
    if {"low", "high"} <= set(rows):
        low, high = (average_categories(rows, key, shared).mean for key in ("low", "high"))
    return {
        "dataset": block.dataset, "detector": name, "model": block.model, "settings": block.settings,
        "categories": " ".join(shared), "seeds": value.n[0], "value": PERCENT * value.mean,
        "spread": PERCENT * value.spread, "cost": cost.mean, "low": low, "high": high,
    }  # fmt: skip
