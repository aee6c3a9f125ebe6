"""What runs have left on disk, as one data frame. Reads only; the first step of every report."""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import pandas as pd

from kdad.engine.finished import walk_folders
from kdad.engine.record import EXTRA, MEAN, RATES, SEVEN, name_category
from kdad.engine.record import HEADLINE as METRICS
from kdad.engine.run_folder import RESULTS, RunFolder
from kdad.errors import UserError
from kdad.geometry import name_size
from kdad.storage.plain import parse_json, parse_yaml

EVERY = (*SEVEN, MEAN)
# Those that not all runs have: PRO up to another rate than 0.3, metrics.pro_limits; AUPIMO, where pixels are exact;
# sPRO of sets with saturation thresholds, of all regions, of those of a kind of anomaly, and the mean over the kinds;
# metrics of one's own
FURTHER = re.compile(rf"pro_(\d+(\.\d*)?(e-?\d+)?)|aupimo|spro_\d\.\d+(_mean|_\w+_anomalies)?|{EXTRA.pattern}")
BY_PROTOCOL = re.compile(rf"({'|'.join(SEVEN)})@\w+(?<!_reason)")  # a metric counted as another paper's code does
REASONS = tuple(f"{metric}_reason" for metric in METRICS)
# Columns that are always there, in this order; whatever else results.json holds follows under its own name.
COLUMNS = (
    "folder", "kind", "variant", "status", "error", "model", "dataset", "category", "backbone", "image_size",
    "seed", "split_seed", "epochs", *METRICS, *REASONS, "fit_seconds", "test_seconds", "config_hash",
    "weights_fingerprint", "config", "config_file", "scores_file", "curves_file", "maps_folder", "modified",
    *(metric for metric in EVERY if metric not in METRICS), "defects_file",
)  # fmt: skip
# What of results.json is reckoned with, by what it must be; bool is a whole number to Python
TYPES: tuple[tuple[tuple[str, ...], tuple[type, ...], str], ...] = (
    (("model", "dataset", "category", "backbone", "config_hash", "error", "trained_on", "decision_rule",
      "decision_source", "corruption", "form", "ckpt_path", "data_fingerprint", "weights_fingerprint",
      "levels", *REASONS), (str, NoneType), "text"),
    ((*SEVEN, "seed", "split_seed", "epochs", "fit_seconds", "test_seconds", *RATES, "image_threshold",
      "pixel_threshold", "decision_images", "false_alarms_promised", "severity", "n_test"),
     (int, float, NoneType), "a number"),
    (("image_size",), (int, list, NoneType), "a size"),
)  # fmt: skip
DECISION = ("decision_source", "decision_images")  # that come with a decision_rule
NAMED = ("model", "dataset", "backbone")  # groups of every run's configuration


def read_runs(folders: Iterable[str | os.PathLike]) -> pd.DataFrame:
    """Read every run below `folders`, whatever its status, into a table with one row per run.

    Returns the rows sorted by folder, in the columns `COLUMNS` and those that results.json holds besides:

    folder         of the results (Path, absolute); `kind` says what they are of: run, variant (of a trained run, in
                   variants/<name>/; `variant` is the name) or evaluation (of a checkpoint); `modified` is when, in
                   seconds since 1970
    status         ok | failed, with `error`, or unfinished: config.yaml without any results below, a job that was
                   killed or is at work
    image_auroc, pixel_auroc, pro
                   in [0, 1], NaN where there is none; `<metric>_reason` says why
    image_ap, image_f1_max, pixel_ap, pixel_f1_max, mad
                   likewise, behind all others; mad is the mean of all seven, where there are all
    config         resolved configuration, nested dict; {} where there is no readable config.yaml
    config_file, scores_file, curves_file, maps_folder, defects_file
                   Path, or None where there is no such thing

    What cannot be read is left out with a warning that names it; `.attrs["skipped"]` lists these messages. Raises
    `UserError` for a folder that does not exist.
    """
    rows: dict[Path, dict[str, Any]] = {}
    skipped: list[str] = []
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder; give folders with runs in them")
        for place in _find_folders(Path(folder).resolve()):
            if place in rows:
                continue
            try:
                if row := _read_run(place, skipped):
                    rows[place] = row
            except (OSError, ValueError) as error:
                skipped.append(f"{RunFolder(place).results} is skipped: {error}")
    for message in skipped:
        warnings.warn(message, stacklevel=2)
    table = pd.DataFrame([rows[place] for place in sorted(rows)])
    table = table.reindex(columns=[*COLUMNS, *(c for c in table.columns if c not in COLUMNS)])
    further = [name for name in table.columns if FURTHER.fullmatch(name) or BY_PROTOCOL.fullmatch(name)]
    for name in (*SEVEN, *further, "fit_seconds", "test_seconds"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    table[MEAN] = table[list(SEVEN)].mean(axis=1, skipna=False)
    table = table.copy()  # in few pieces: to select rows of one in many takes ten times as long
    table.attrs["skipped"] = skipped
    return table


def is_metric(name: str) -> bool:
    """Return whether this names a metric: one of `EVERY`, PRO up to another rate, AUPIMO, sPRO or one's own."""
    return name in EVERY or FURTHER.fullmatch(name) is not None


def expand_metrics(metrics: Sequence[str], runs: pd.DataFrame) -> list[str]:
    """Return the metrics that are asked for, `all` being all that the runs have.

    Raises `UserError` for one that no run has.
    """
    if "all" in metrics:
        return [*EVERY, *filter(FURTHER.fullmatch, runs.columns)]
    if absent := [metric for metric in metrics if metric not in runs]:
        kind, _, rest = absent[0].partition("_")
        keys = {
            "spro": " dataset.saturation=defects_config.json",
            "pro": f" metrics.pro_limits=[0.3,{rest}]" if rest else "",
            "extra": f" '+metrics.extra.{rest}={{_target_: <module>.<class>}}'",
        }
        raise UserError(
            f"--metrics {' '.join(absent)}: no run has it; kdad evaluate ckpt_path=<run>{keys.get(kind, '')} computes "
            "it"
        )
    return list(metrics)


def locate_files(run: RunFolder) -> dict[str, Path]:
    """Return where a run keeps its files, by the column of the table that names them. They need not exist."""
    return {
        "config_file": run.config, "scores_file": run.scores, "curves_file": run.curves, "maps_folder": run.maps,
        "defects_file": run.defects,
    }  # fmt: skip


def _find_folders(root: Path) -> Iterator[Path]:
    """Yield the folders with a results.json, then those of jobs that have begun and left no results at all."""
    begun, done = [], []
    for folder, files in walk_folders(root):
        if RESULTS in files:
            done.append(folder)
        elif RunFolder(folder).config.name in files:
            begun.append(folder)
    yield from done
    yield from (folder for folder in begun if not any(place.is_relative_to(folder) for place in done))


def _read_run(folder: Path, skipped: list[str]) -> dict[str, Any] | None:
    """Read one row of the table, and add to `skipped` what is wrong with its config.yaml.

    Returns None for a folder that kdad has not made, and for the means of a unified run, whose categories have rows of
    their own. Raises `ValueError` for results that are not kdad's, or cut short.
    """
    run = RunFolder(folder)
    files = {key: place if place.exists() else None for key, place in locate_files(run).items()}
    config, problem = _read_config(run.config) if files["config_file"] else ({}, "")
    if run.results.exists():
        results, written = _read_results(run.results), run.results
        skipped += [f"{run.config} is skipped: {problem}"] if problem else []
        if "categories" in results and results["status"] == "ok":
            absent = ", ".join(run.list_absent(results))
            skipped += [f"{written} has categories whose own results are gone: {absent}"] if absent else []
            return None
    elif config:
        results = {"status": "unfinished", "error": f"no {RESULTS}: killed, or still at work"}
        results |= {key: config[key]["name"] for key in NAMED}
        results |= {key: config.get(key) for key in ("image_size", "seed")}
        results["category"] = name_category(config.get("category"))
        written = run.config
    else:
        return None
    if other := results.get("trained_on"):  # an evaluation on other data is no run on these
        results["dataset"] = f"{results['dataset']} (trained on {other})"
    if isinstance(size := results.get("image_size"), list):  # a cell of a table is a number or a text
        results["image_size"] = name_size(size)
    tested = folder.parent.parent if folder.parent.name == run.categories.name else folder
    variant = tested.name if tested.parent.name == run.variants.name else ""
    tested_again = "ckpt_path" in results and "fit_seconds" not in results
    return {
        **results,
        **files,
        "folder": folder,
        "kind": "variant" if variant else "evaluation" if tested_again else "run",
        "variant": variant,
        "config": config,
        "modified": written.stat().st_mtime,
    }


def _read_config(path: Path) -> tuple[dict[str, Any], str]:
    """Read a run's configuration. Returns it and "", or {} and what is wrong with it."""
    try:
        config = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {}, str(error)
    return (config, "") if _is_of_a_run(config) else ({}, "not the configuration of a kdad run")


def _is_of_a_run(config: Any) -> bool:
    groups = [config.get(key) for key in NAMED] if isinstance(config, dict) else [None]
    return all(isinstance(group, dict) and isinstance(group.get("name"), str) for group in groups)


def _read_results(path: Path) -> dict[str, Any]:
    """Read a results.json. Raises `ValueError` where it is not a kdad run's, or lacks what complete ones hold."""
    results = parse_json(path.read_text(encoding="utf-8"))
    if not isinstance(results, dict) or results.get("status") not in ("ok", "failed"):
        raise ValueError("not the results of a kdad run: no status ok or failed")
    if results["status"] == "ok" and (lacking := [m for m in ("model", "dataset", *METRICS) if m not in results]):
        raise ValueError(f"it says ok but has no {', '.join(lacking)}")
    if results.get("decision_rule") and (lacking := [key for key in DECISION if results.get(key) is None]):
        raise ValueError(f"it has decision_rule but no {', '.join(lacking)}")
    for names, kinds, what in TYPES:
        if wrong := [name for name in names if not isinstance(results.get(name), kinds)]:
            raise ValueError(f"{wrong[0]} is {str(results[wrong[0]])[:40]!r}, not {what}")
    for name in (name for name in results if is_metric(name) and not EXTRA.fullmatch(name)):  # one's own has any range
        value = results[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1):
            raise ValueError(f"{name} is {str(value)[:40]!r}, not a number from 0 to 1")
    return results
