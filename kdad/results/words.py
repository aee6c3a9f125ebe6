"""Words for a table's reader: names of metrics and means, settings, and what stands under a table."""

from argparse import ArgumentTypeError
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from kdad.engine.record import EXTRA
from kdad.results.read import EVERY, METRICS, is_metric

NAMES = {
    "image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pro": "PRO", "image_ap": "image AP",
    "image_f1_max": "image F1-max", "pixel_ap": "pixel AP", "pixel_f1_max": "pixel F1-max", "mad": "mAD",
    "aupimo": "AUPIMO", "seconds": "time", "megabytes": "memory", "gigaflops": "operations",
    "million_parameters": "parameters",
}  # fmt: skip
AVERAGES = {"average_textures": "average of textures", "average_objects": "average of objects", "average": "average"}
SHOWN = 5  # of one kind are named, the others counted


def name_metric(metric: str) -> str:
    """Return what a reader calls a metric; of `pro_<limit>`, PRO to that rate, of `spro_<limit>_<kind>`, sPRO.

    One's own, `extra_<name>`, has the name that it was given.
    """
    if metric in NAMES:
        return NAMES[metric]
    if EXTRA.fullmatch(metric):
        return metric.removeprefix("extra_").replace("_", " ")
    name, limit, *kind = metric.split("_", 2)
    of = f" ({kind[0].replace('_', ' ')})" if kind else ""
    return f"{'sPRO' if name == 'spro' else 'PRO'} to {limit}{of}"


def parse_metric(text: str) -> str:
    """Return a metric of the command line. Raises `argparse.ArgumentTypeError` for another word."""
    if is_metric(text) or text == "all":
        return text
    raise ArgumentTypeError(
        f"{text}: choose from {', '.join(EVERY)}, aupimo, pro_<limit> (metrics.pro_limits=), "
        "spro_<limit>[_mean] (MVTec LOCO), extra_<name> (metrics.extra), or all"
    )


def name_missing_categories(average: str, wanted: Sequence[str], absent: Sequence[str]) -> str:
    """Say which of its `wanted` categories an average is over, where some are `absent`."""
    there = [category for category in wanted if category not in absent]
    which = ", ".join(there) if len(there) < len(absent) else f"all but {', '.join(absent)}"
    return f"{AVERAGES[average]} over {len(there)} of {len(wanted)} categories only: {which}"


def list_causes(runs: pd.DataFrame, metrics: Sequence[str] = METRICS) -> list[str]:
    """Return why runs have failed, are not finished, or lack a metric.

    Each cause is there once, with the runs that it happened to.
    """
    causes = []
    for status in ("failed", "unfinished"):
        rows = runs[runs["status"] == status]
        for error, group in rows.groupby(rows["error"].fillna("no error is recorded"), sort=False):
            causes.append(f"{status}: {str(error).strip().partition(chr(10))[0]} ({_name_runs(group)})")
    for metric in metrics:
        if f"{metric}_reason" not in runs:  # of the mean, which lacks what one of the others does
            continue
        rows = runs[(runs["status"] == "ok") & runs[metric].isna()]
        for reason, group in rows.groupby(rows[f"{metric}_reason"].fillna("no reason is recorded"), sort=False):
            causes.append(f"n/a: {name_metric(metric)}: {reason} ({_name_runs(group)})")
    return causes


def list_changed_data(runs: pd.DataFrame) -> list[str]:
    """Return a note on each group of runs of one setting whose images were not the same ones, by their fingerprints."""
    if "data_fingerprint" not in runs:  # of version 0.1
        return []
    alike = ["model", "dataset", "settings", "category", "split_seed"]
    groups = runs[runs["status"] == "ok"].groupby(alike, sort=False, dropna=False)
    changed = groups["data_fingerprint"].agg(_count_data).reset_index().query("data_fingerprint > 1")
    return [
        f"{row['model']} on {row['dataset']} {row['category']}: the images changed between the runs of this mean."
        for row in changed.to_dict("records")
    ]


def _count_data(fingerprints: pd.Series) -> int:
    """Return how many data there are for sure: of those of an earlier kdad names and sizes alone are known."""
    found = [str(one).partition("-") for one in fingerprints.dropna()]
    return max(len({names for names, *_ in found}), len({one for one in found if one[2]}))


def list_other_metrics(runs: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Return a note on each metric of one's own that is not computed alike in all runs, by their configurations."""
    notes = []
    for metric in filter(EXTRA.fullmatch, metrics):
        name = metric.removeprefix("extra_")
        nodes = [
            config.get("metrics", {}).get("extra", {}).get(name) for config in runs.loc[runs[metric].notna(), "config"]
        ]
        found = list(dict.fromkeys(format_settings(node) for node in nodes if node))
        if len(found) > 1:
            notes.append(f"{metric} is not the same metric in all runs: {'; '.join(found)}.")
    return notes


def describe_repeats(left_out: pd.DataFrame) -> list[str]:
    """Say which runs `drop_repeats` has left out. Returns one line, or none where it has left out none."""
    if left_out.empty:
        return []
    folders = _join_names([str(folder) for folder in left_out["folder"]])
    kept = "The same configuration and seed counts once: the latest complete run of it, before its evaluations"
    return [f"{kept}; left out: {folders}"]


def _name_runs(runs: pd.DataFrame) -> str:
    seeds = ["?" if pd.isna(seed) else str(int(seed)) for seed in runs["seed"]]
    rows = zip(runs["model"], runs["dataset"], runs["category"], seeds, strict=True)
    return _join_names([f"{model} {dataset}/{category} seed {seed}" for model, dataset, category, seed in rows])


def _join_names(names: list[str]) -> str:
    shown = "; ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}; and {len(names) - SHOWN} more"


def count_runs(runs: pd.DataFrame) -> str:
    """Say how many runs there are: 1 run, 2 runs."""
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}"


def format_settings(values: dict[str, Any]) -> str:
    """Write settings as they stand on a command line: image_size=128, levels=[1,2]."""
    return ", ".join(f"{key}={format_value(value)}" for key, value in values.items())


def format_value(value: Any) -> str:
    """Write one value as it stands on a command line."""
    if isinstance(value, list):
        return f"[{','.join(map(format_value, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def format_percent(mean: float, spread: float = float("nan")) -> str:
    """Write a value in [0, 1] in percent, as papers print it, and its standard deviation where there is one."""
    if pd.isna(mean):
        return "n/a"
    return f"{100 * mean:.1f}" if pd.isna(spread) else f"{100 * mean:.1f} ± {100 * spread:.1f}"


def describe_metrics(run: pd.Series, metrics: Sequence[str], across: int) -> str:
    """Return metrics of a run, with their names and in percent, `across` of them on a line."""
    texts = [f"{name_metric(metric)} {format_percent(run[metric])} %" for metric in metrics]
    return "\n".join(", ".join(texts[i : i + across]) for i in range(0, len(texts), across))


def merge_notes(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Return notes of the form "what: text", one for each text, of everything that it is said of."""
    by_text: dict[str, dict[str, None]] = {}
    for what, text in notes:
        by_text.setdefault(text, {})[what] = None
    return [f"{', '.join(names)}: {text}" for text, names in by_text.items()]
