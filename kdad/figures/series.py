"""Which runs a figure shows, and what tells them apart."""

import sys
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kdad import published
from kdad.errors import UserError
from kdad.report.collect import runs
from kdad.report.spread import once
from kdad.report.study import described


@dataclass
class Series:
    """Runs that differ by seed alone, ascending; `label` says how they differ from the other series."""

    label: str
    runs: pd.DataFrame

    def name(self, run: pd.Series, seeds: bool) -> str:
        """Of one of the runs."""
        return f"{self.label}, seed {run['seed']:.0f}" if seeds and pd.notna(run["seed"]) else self.label


def found(folders: Sequence[Path]) -> pd.DataFrame:
    """Every run below the folders, in their order, failed ones too; what cannot be read is remarked on.

    A folder that is a run itself stands for that run, without its variants and later evaluations. Raises `UserError` where there is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = runs(folders)
    for message in table.attrs["skipped"]:
        remark(message)
    if table.empty:
        raise UserError(f"no results.json of a run below {', '.join(map(str, folders))}; give folders of runs")
    roots = [folder.resolve() for folder in folders]
    named = [place for place in table["folder"] if place in roots]
    table = table[[not any(run in place.parents for run in named) for place in table["folder"]]]
    given = [next(i for i, root in enumerate(roots) if place.is_relative_to(root)) for place in table["folder"]]
    # In the order of the command line, which `runs` has sorted by folder.
    return table.fillna({"dataset": "?", "category": "default"}).iloc[np.argsort(given, kind="stable")]


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The runs that ended well; of the others a remark says that they are left out. Raises `UserError` if none did."""
    good = table["status"] == "ok"
    if not good.any():
        first = table.iloc[0]
        raise UserError(f"none of the runs is complete; {first['folder']} is {first['status']}: {first['error']}")
    for _, run in table[~good].iterrows():
        remark(f"{run['folder']} is left out: {run['status']}: {run['error']}")
    return table[good]


def series(table: pd.DataFrame, names: Sequence[str] = ("model", "dataset", "category")) -> list[Series]:
    """The runs grouped by configuration and `names`, each configuration and seed once.

    Labels tell what differs: of `names`, and of the configuration within a detector and data set. `settings` of a
    run is the latter. A run that another stands for is remarked on.
    """
    table, left_out = once(described(table)[0], ["model", "dataset", "key", "category", "seed"])
    for folder in left_out["folder"]:
        remark(f"{folder} is left out: a later or complete run has its configuration and seed")
    told = [name for name in names if table[name].nunique() > 1] or ["model"]
    groups = table.groupby([*names, "key"], sort=False)
    return [Series(_label(rows.iloc[0], told), rows.sort_values("seed", kind="stable")) for _, rows in groups]


def _label(run: pd.Series, told: Sequence[str]) -> str:
    values = [method(run[name]) if name == "model" else str(run[name]) for name in told]
    return ", ".join(filter(None, [" ".join(values), run["settings"]]))


def method(model: str) -> str:
    """A detector's name as its paper writes it."""
    return model.upper() if model in published.papers() else model


def file_of(run: pd.Series, key: str, name: str) -> Path:
    """A file or folder that a run has left. Raises `UserError` where it has not."""
    if run[key] is None:
        raise UserError(f"{run['folder']} has no {name}: test the run again with python -m kdad.evaluate")
    return run[key]


def scores_of(run: pd.Series) -> pd.DataFrame:
    """scores.csv: path, label (0 normal, 1 anomalous), score; the row's number is the image's. Raises `UserError`."""
    path = file_of(run, "scores_file", "scores.csv")
    try:
        scores = pd.read_csv(path, dtype={"path": str})
    except ValueError as error:  # pandas' own errors, and text that is not UTF-8
        raise UserError(f"{path}: cannot be read as a table: {error}") from error
    if lacking := {"path", "label", "score"} - set(scores.columns):
        raise UserError(f"{path}: no column {', '.join(sorted(lacking))}; is it a kdad run's?")
    return scores


def percent(mean: float, spread: float = float("nan")) -> str:
    """A value in [0, 1] as papers print it, and the standard deviation where there is one."""
    if pd.isna(mean):
        return "n/a"
    return f"{100 * mean:.1f}" if pd.isna(spread) else f"{100 * mean:.1f} ± {100 * spread:.1f}"


def wrap(text: str, width: int) -> str:
    return textwrap.fill(text, width)


def remark(message: str) -> None:
    print(f"kdad: {message}", file=sys.stderr)
