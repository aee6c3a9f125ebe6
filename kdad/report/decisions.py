"""Tables of what detectors decide: at their thresholds, and by kind of defect."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kdad.report.writers import Table, find_best_across
from kdad.results.kinds import Kind, measure_kinds

RATES = {
    "false_alarm_rate": "false alarms (%)", "detection_rate": "detected (%)", "image_f1": "image F1 (%)",
    "pixel_f1": "pixel F1 (%)",
}  # fmt: skip
TAKEN = ("decision_rule", "decision_images", "decision_source")  # what says how
THRESHOLDS = (*TAKEN, "image_threshold", "pixel_threshold")
LOCO, MEAN = ("logical_anomalies", "structural_anomalies"), "mean of both"
Where = tuple[str, str, int]  # category, kind and number of images
HOW_DECIDED = (
    "At thresholds from normal images alone, none of the test; promised is what false alarms should average to on "
    "further normal images, where the rule says so and the images were held out."
)


def tabulate_decisions(named: Sequence[tuple[list[str], pd.DataFrame]]) -> list[Table]:
    """Return a table of what runs decide at their thresholds, means over seeds; none where no run has any.

    `named`: detector, data set and settings, with the runs of them, and with tests of the same weights, which may have
    other thresholds: `kdad calibrate` takes them from other images. A line is of thresholds taken in one
    way, one of each seed.
    """
    lines = []
    for names, rows in named:
        if "decision_rule" not in rows:
            continue
        same = ["category", "seed", *(key for key in THRESHOLDS if key in rows)]
        decided = rows[rows["decision_rule"].notna()].drop_duplicates(same)
        nth = decided.groupby(["category", "seed", *TAKEN], dropna=False).cumcount()
        for (category, *_), runs in decided.groupby(["category", *TAKEN, nth], sort=False):
            rule, images, source = runs.iloc[0][list(TAKEN)]
            means = [_percent(runs.get(key)) for key in (*RATES, "false_alarms_promised")]
            lines.append([*names, str(category), f"{rule} of {images:.0f} {source}", *means])
    head = ["model", "data set", "settings", "category", "thresholds", *RATES.values(), "promised (%)"]
    return [Table("At the thresholds", [("", name) for name in head], 5, lines)] if lines else []


def tabulate_kinds(named: Sequence[tuple[list[str], pd.DataFrame]], columns: Sequence[str]) -> list[Table]:
    """Return a table for each data set: image AUROC and share detected by kind of defect, means over seeds.

    Categories and kinds go down, detectors across; `columns` are their names. None where no run names kinds. Where the
    kinds are MVTec LOCO's two, their mean is there, too, as in its paper, and averages over several categories.
    """
    tables = []
    for dataset in dict.fromkeys(names[1] for names, _ in named):
        beside = [(name, rows) for (names, rows), name in zip(named, columns, strict=True) if names[1] == dataset]
        found: dict[Where, dict[str, Kind]] = {}
        for name, rows in beside:
            for run_category, runs in rows.groupby("category", sort=False):
                measured = [measure_kinds(file) for file in runs["scores_file"]]
                for kind in sorted({kind for each in measured for kind in each}):
                    values = [each[kind] for each in measured if kind in each]
                    key = str(run_category), kind, values[0].images
                    found.setdefault(key, {})[name] = _average_runs(values)
        shown = [name for name, _ in beside]
        head = [("", "category"), ("", "kind"), ("", "images")]
        head += [(name, part) for name in shown for part in ("image AUROC (%)", "detected (%)")]
        lines = []
        for (category, kind, images), by_name in sorted(add_means(found).items(), key=_place):
            cells = [_cell(by_name.get(name), part) for name in shown for part in ("image_auroc", "detected")]
            lines.append([category, kind, str(images), *cells])
        best = {(row, 3 + 2 * column) for row, column in find_best_across([line[3::2] for line in lines], 0)}
        if lines:
            tables.append(Table(f"{dataset}: by kind of defect", head, 2, lines, best=best))
    return tables


def _average_runs(values: Sequence[Kind]) -> Kind:
    """Return the mean of each figure over the runs that have it, NaN where none has."""
    figures = np.array(values, dtype=float)
    counts, sums = (~np.isnan(figures)).sum(axis=0), np.nansum(figures, axis=0)
    return Kind(*np.where(counts, sums / np.maximum(counts, 1), np.nan))


def add_means(found: Mapping[Where, dict[str, Kind]]) -> dict[Where, dict[str, Kind]]:
    """Add to what detectors have measured, by category, kind and images, the means over MVTec LOCO's two kinds.

    Returns all of them; nothing is added where a category has other kinds. Means are of detectors that have both.
    """
    if {kind for _, kind, _ in found} != set(LOCO):
        return dict(found)
    added = dict(found)
    for category in {category for category, _, _ in found}:
        both = {where: values for where, values in found.items() if where[0] == category}
        if len(both) == len(LOCO):
            added[category, MEAN, sum(images for _, _, images in both)] = _average(list(both.values()))
    categories = len({category for category, _, _ in found})
    for kind in (*LOCO, MEAN) if categories > 1 else ():
        of_kind = {where: values for where, values in added.items() if where[1] == kind}
        if len(of_kind) == categories:
            added["average", kind, sum(images for _, _, images in of_kind)] = _average(list(of_kind.values()))
    return added


def _average(several: Sequence[dict[str, Kind]]) -> dict[str, Kind]:
    names = [name for name in several[0] if all(name in values for values in several)]
    return {name: Kind(*np.mean([values[name] for values in several], axis=0)) for name in names}


def _place(item: tuple[Where, dict[str, Kind]]) -> tuple[bool, str, bool, str, int]:
    (category, kind, images), _ = item
    return category == "average", category, kind == MEAN, kind, images


def _percent(values: pd.Series | None) -> str:
    mean = float("nan") if values is None else pd.to_numeric(values, errors="coerce").mean()
    return "" if pd.isna(mean) else f"{100 * mean:.2f}"


def _cell(values: Kind | None, part: str) -> str:
    return "" if values is None or math.isnan(getattr(values, part)) else f"{100 * getattr(values, part):.2f}"
