"""Which runs a figure shows, what tells them apart, and what they have left on disk."""

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdad import published
from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from kdad.results.kinds import drop_damaged, read_table
from kdad.results.read import locate_files, read_runs
from kdad.results.settings import describe_runs
from kdad.results.statistics import drop_repeats
from kdad.results.words import count_runs


@dataclass
class Series:
    """Runs that differ by seed alone, ascending; `label` says how they differ from the other series."""

    label: str
    runs: pd.DataFrame

    def name_run(self, run: pd.Series, with_seed: bool) -> str:
        """Return the label of one of the runs, with its seed behind it if `with_seed`."""
        return f"{self.label}, seed {run['seed']:.0f}" if with_seed and pd.notna(run["seed"]) else self.label


def find_runs(folders: Sequence[Path], with_evaluations: bool = False) -> pd.DataFrame:
    """Return every run below the folders, in their order, failed ones too.

    A folder that is a run itself stands for that run, without its variants and later evaluations, unless it is to be
    `with_evaluations`. Tests of corrupted images, which are no further detectors, are then there, too, and otherwise
    only where there are no others. What cannot be read is remarked on. Raises `UserError` where there is no run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = read_runs(folders)
    for message in table.attrs["skipped"]:
        print_remark(message)
    if table.empty:
        raise UserError(f"no results.json of a run below {', '.join(map(str, folders))}; give folders of runs")
    roots = [folder.resolve() for folder in folders]
    named = [place for place in table["folder"] if place in roots]
    inner = pd.Series([any(run in place.parents for run in named) for place in table["folder"]], index=table.index)
    table = table[~inner | (with_evaluations & (table["kind"] == "evaluation"))]
    corrupted = is_corrupted(table)
    if not with_evaluations and corrupted.any() and not corrupted.all():
        print_remark(f"left out: {count_runs(table[corrupted])} with corruption=, which kdad figures robustness shows")
        table = table[~corrupted]
    given = [next(i for i, root in enumerate(roots) if place.is_relative_to(root)) for place in table["folder"]]
    # In the order of the command line, which `read_runs` has sorted by folder.
    return table.fillna({"dataset": "?", "category": "default"}).iloc[np.argsort(given, kind="stable")]


def keep_complete(table: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that ended well, and print a remark on each of the others.

    Raises `UserError` where none did.
    """
    good = table["status"] == "ok"
    if not good.any():
        first = table.iloc[0]
        raise UserError(f"none of the runs is complete; {first['folder']} is {first['status']}: {first['error']}")
    for _, run in table[~good].iterrows():
        print_remark(f"{run['folder']} is left out: {run['status']}: {run['error']}")
    return table[good]


def keep_fit(runs: pd.DataFrame, check: Callable[[pd.Series], object]) -> pd.DataFrame:
    """Return the runs for which `check` raises no `UserError`, and print a remark on each of the others.

    Raises the first one's where it does for all.
    """
    problems: dict[Any, UserError] = {}
    for index, run in runs.iterrows():
        try:
            check(run)
        except UserError as error:
            problems[index] = error
    if problems and len(problems) == len(runs):
        raise next(iter(problems.values()))
    for problem in problems.values():
        print_remark(f"left out: {problem}")
    return runs.drop(index=list(problems))


def keep_undamaged(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with scores that can be believed, and print a remark on each of the others.

    Raises `UserError` where none has.
    """
    runs.attrs["skipped"] = []  # of which remarks have been made
    found = drop_damaged(runs)
    for message in found.attrs["skipped"]:
        print_remark(message)
    return keep_fit(found, lambda run: find_file(run, "scores_file"))


def is_corrupted(runs: pd.DataFrame) -> pd.Series:
    """Return of each run whether its test images were changed by corruption=."""
    found = [bool(config) and config.get("corruption", "none") != "none" for config in runs["config"]]
    return pd.Series(found, index=runs.index, dtype=bool)


def group_runs(table: pd.DataFrame, names: Sequence[str] = ("model", "dataset", "category")) -> list[Series]:
    """Group the runs that differ by seed alone: of equal configuration, and of equal `names`.

    Returns the groups, in which each seed is once; a run that another stands for is remarked on. Labels tell what
    differs: of `names`, and of the configuration within a detector and data set, which is also the runs' `settings`.
    """
    table, left_out = drop_repeats(describe_runs(table)[0], ["model", "dataset", "key", "category", "seed"])
    for folder in left_out["folder"]:
        print_remark(f"{folder} is left out: a later or complete run has its configuration and seed")
    telling = [name for name in names if table[name].nunique() > 1] or ["model"]
    groups = table.groupby([*names, "key"], sort=False)
    return [Series(_make_label(rows.iloc[0], telling), rows.sort_values("seed", kind="stable")) for _, rows in groups]


def _make_label(run: pd.Series, telling: Sequence[str]) -> str:
    values = [name_detector(run[name]) if name == "model" else str(run[name]) for name in telling]
    return ", ".join(filter(None, [" ".join(values), run["settings"]]))


def name_detector(model: str) -> str:
    """Return the name of a detector as its paper writes it: RD for rd."""
    return model.upper() if model in published.list_papers() else model


def find_file(run: pd.Series, key: str) -> Path:
    """Return the file or folder of a run that this column names. Raises `UserError` where it has left none."""
    if run[key] is None:
        name = locate_files(RunFolder(run["folder"]))[key].name + ("/" if key.endswith("_folder") else "")
        raise UserError(f"{run['folder']} has no {name}: test the run again with python -m kdad.evaluate")
    return run[key]


def read_scores(run: pd.Series) -> pd.DataFrame:
    """Read a run's scores.csv.

    Returns path, label (0 normal, 1 anomalous) and score; the row's number is the image's. Raises `UserError` where
    there is none, or it is no such table.
    """
    path = find_file(run, "scores_file")
    scores = read_table(path, dtype={"path": str})
    if lacking := {"path", "label", "score"} - set(scores.columns):
        raise UserError(f"{path}: no column {', '.join(sorted(lacking))}; is it a kdad run's?")
    if not scores["label"].isin((0, 1)).all() or not np.isfinite(pd.to_numeric(scores["score"], "coerce")).all():
        raise UserError(f"{path}: a label that is neither 0 nor 1, or a score that is no number; was it changed?")
    return scores


def print_remark(message: str) -> None:
    """Print a message to the terminal, apart from what a command gives out."""
    print(f"kdad: {message}", file=sys.stderr)
