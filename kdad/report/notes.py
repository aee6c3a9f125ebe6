"""Words for a table's reader: names of metrics and means, and what stands under a table."""

from collections.abc import Sequence

import pandas as pd

from kdad.report.collect import METRICS

NAMES = {
    "image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pro": "PRO", "seconds": "time", "megabytes": "memory",
    "gigaflops": "operations", "million_parameters": "parameters",
}  # fmt: skip
AVERAGES = {"average_textures": "average of textures", "average_objects": "average of objects", "average": "average"}
SHOWN = 5  # of one kind are named, the others counted


def missing(average: str, wanted: Sequence[str], absent: Sequence[str]) -> str:
    """What an average that lacks categories is over."""
    there = [category for category in wanted if category not in absent]
    which = ", ".join(there) if len(there) < len(absent) else f"all but {', '.join(absent)}"
    return f"{AVERAGES[average]} over {len(there)} of {len(wanted)} categories only: {which}"


def causes(runs: pd.DataFrame) -> list[str]:
    """Why runs have failed, are not finished, or lack a metric: each cause once, with where it happened."""
    found = []
    for status in ("failed", "unfinished"):
        rows = runs[runs["status"] == status]
        for error, group in rows.groupby(rows["error"].fillna("no error is recorded"), sort=False):
            found.append(f"{status}: {str(error).strip().partition(chr(10))[0]} ({_where(group)})")
    for metric in METRICS:
        rows = runs[(runs["status"] == "ok") & runs[metric].isna()]
        for reason, group in rows.groupby(rows[f"{metric}_reason"].fillna("no reason is recorded"), sort=False):
            found.append(f"n/a: {NAMES[metric]}: {reason} ({_where(group)})")
    return found


def repeats(left_out: pd.DataFrame) -> list[str]:
    """What `once` has left out."""
    if left_out.empty:
        return []
    folders = _names([str(folder) for folder in left_out["folder"]])
    return [f"The same configuration and seed counts once, the latest complete run of it; left out: {folders}"]


def _where(runs: pd.DataFrame) -> str:
    seeds = ["?" if pd.isna(seed) else str(int(seed)) for seed in runs["seed"]]
    rows = zip(runs["model"], runs["dataset"], runs["category"], seeds, strict=True)
    return _names([f"{model} {dataset}/{category} seed {seed}" for model, dataset, category, seed in rows])


def _names(names: list[str]) -> str:
    shown = "; ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}; and {len(names) - SHOWN} more"
