"""Tables of pixel metrics by kind of defect and by size of region."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from kdad.report.writers import Table, find_best_across
from kdad.results.kinds import read_defects

SHOWN = {"pro": "PRO (%)", "pixel_ap": "pixel AP (%)", "pixel_f1_max": "pixel F1-max (%)", "aupimo": "AUPIMO (%)"}
HOW_MEASURED = (
    "By kind and size: the pixels of these regions alone against all normal pixels; a size is a region's share of its "
    "image. PRO of all is the mean of PRO by kind, or by size, weighted by regions."
)


def tabulate_defects(named: Sequence[tuple[list[str], pd.DataFrame]], columns: Sequence[str]) -> list[Table]:
    """Return a table for each data set: pixel metrics by kind and by size, means over seeds.

    `named`: detector, data set and settings, with the runs of them; `columns` are what the detectors are called.
    Categories, kinds and sizes go down, detectors across. None where no run has measured them.
    """
    tables = []
    for dataset in dict.fromkeys(names[1] for names, _ in named):
        beside = [(name, rows) for (names, rows), name in zip(named, columns, strict=True) if names[1] == dataset]
        measured = pd.concat([_average_seeds(rows).assign(detector=name) for name, rows in beside])
        if measured.empty:
            continue
        shown = [name for name, _ in beside if name in set(measured["detector"])]
        metrics = [metric for metric in SHOWN if measured[metric].notna().any()]
        lines = []
        keys = ["category", "by", "name", "images", "regions"]
        for place, rows in measured.groupby(keys, sort=False):
            cells = rows.set_index("detector").reindex(shown)  # a detector that has not measured this is left empty
            values = cells[metrics].to_numpy(dtype=float).ravel()
            lines.append([*map(str, place), *("" if math.isnan(value) else f"{100 * value:.2f}" for value in values)])
        head = [("", key) for key in keys] + [(name, SHOWN[metric]) for name in shown for metric in metrics]
        best = set()
        for number in range(len(metrics)):
            of_metric = find_best_across([line[len(keys) + number :: len(metrics)] for line in lines], 0)
            best |= {(row, len(keys) + number + len(metrics) * column) for row, column in of_metric}
        tables.append(Table(f"{dataset}: regions by kind and size", head, 3, lines, best=best))
    return tables


def _average_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what the runs have measured of each category, kind and size: means over seeds of the same images."""
    keys = ["category", "by", "name", "images", "regions"]
    each = [(str(run), read_defects(file)) for run, file in zip(rows["category"], rows["defects_file"], strict=True)]
    each = [(category, table) for category, table in each if table and len(table["by"])]
    if not each:
        return pd.DataFrame(columns=[*keys, *SHOWN])
    columns = {name: np.concatenate([table[name] for _, table in each]) for name in (*keys[1:], *SHOWN)}
    columns["category"] = np.repeat([category for category, _ in each], [len(table["by"]) for _, table in each])
    return pd.DataFrame(columns).groupby(keys, sort=False)[list(SHOWN)].mean().reset_index()
