"""What runs have left on disk, as one data frame. Reads only; the first step of every report."""

import json
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from kdad.errors import UserError

METRICS = ("image_auroc", "pixel_auroc", "pro")
REASONS = tuple(f"{metric}_reason" for metric in METRICS)
# Columns that are always there, in this order; whatever else results.json holds follows under its own name.
COLUMNS = (
    *("folder", "kind", "variant", "status", "error", "model", "dataset", "category", "backbone", "image_size"),
    *(
        "seed",
        "split_seed",
        "epochs",
        *METRICS,
        *REASONS,
        "fit_seconds",
        "test_seconds",
        "config_hash",
        "weights_fingerprint",
    ),
    *("config", "config_file", "scores_file", "curves_file", "maps_folder", "modified"),
)
FILES = {
    "config_file": "config.yaml", "scores_file": "scores.csv", "curves_file": "curves.npz", "maps_folder": "maps"
}  # fmt: skip
# A run's config.yaml is resolved; OmegaConf's loader would take ten times as long.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
NAMED = ("model", "dataset", "backbone")  # groups of every run's configuration
OPAQUE = {"maps", "checkpoints"}  # folders without results, of many files


def runs(folders: Iterable[str | os.PathLike]) -> pd.DataFrame:
    """One row per results.json anywhere below `folders`, sorted by folder, whatever its status.

    folder         of the results (Path, absolute); `kind` says what they are of: run, variant (of a trained run, in
                   variants/<name>/; `variant` is the name) or evaluation (of a checkpoint); `modified` is when (epoch s)
    status         ok | failed, with `error`, or unfinished: config.yaml without any results below, a job that was
                   killed or is at work
    image_auroc, pixel_auroc, pro
                   in [0, 1], NaN where there is none; `<metric>_reason` says why
    config         resolved configuration, nested dict; {} where there is no readable config.yaml
    config_file, scores_file, curves_file, maps_folder
                   Path, or None where there is no such thing

    All else that results.json holds is there under its own name. What cannot be read is left out with a warning that
    names it; `.attrs["skipped"]` lists these messages. Raises `UserError` for a folder that does not exist.
    """
    rows: dict[Path, dict[str, Any]] = {}
    skipped: list[str] = []
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder; give folders with runs in them")
        for place in _places(Path(folder).resolve()):
            if place in rows:
                continue
            try:
                if row := _row(place, skipped):
                    rows[place] = row
            except (OSError, ValueError) as error:
                skipped.append(f"{place / 'results.json'} is skipped: {error}")
    for message in skipped:
        warnings.warn(message, stacklevel=2)
    table = pd.DataFrame([rows[place] for place in sorted(rows)])
    table = table.reindex(columns=[*COLUMNS, *(c for c in table.columns if c not in COLUMNS)])
    for name in (*METRICS, "fit_seconds", "test_seconds"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    table.attrs["skipped"] = skipped
    return table


def _places(root: Path) -> Iterator[Path]:
    """Folders with a results.json, and those of jobs that have begun and left no results at all."""
    begun, done = [], []
    for name, inside, files in os.walk(root):
        inside[:] = [folder for folder in inside if folder not in OPAQUE and not folder.startswith(".")]
        if "results.json" in files:
            done.append(Path(name))
        elif "config.yaml" in files:
            begun.append(Path(name))
    yield from done
    yield from (folder for folder in begun if not any(place.is_relative_to(folder) for place in done))


def _row(folder: Path, skipped: list[str]) -> dict[str, Any] | None:
    """None for a folder that kdad has not made; raises `ValueError` for results that are not kdad's, or cut short."""
    found = {key: folder / name if (folder / name).exists() else None for key, name in FILES.items()}
    path, problem, config = folder / "results.json", "", {}
    if found["config_file"]:
        try:
            config = yaml.load(found["config_file"].read_text(encoding="utf-8"), LOADER)
            problem = "" if _is_of_a_run(config) else "not the configuration of a kdad run"
        except (OSError, ValueError, yaml.YAMLError) as error:
            problem = str(error)
    config = {} if problem else config
    if path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(results, dict) or results.get("status") not in ("ok", "failed"):
            raise ValueError("not the results of a kdad run: no status ok or failed")
        if results["status"] == "ok" and (lacking := [m for m in ("model", "dataset", *METRICS) if m not in results]):
            raise ValueError(f"it says ok but has no {', '.join(lacking)}")
        skipped += [f"{found['config_file']} is skipped: {problem}"] if problem else []
    elif config:
        results = {"status": "unfinished", "error": "no results.json: killed, or still at work"}
        results |= {key: config[key]["name"] for key in NAMED}
        results |= {key: config.get(key) for key in ("category", "image_size", "seed")}
    else:
        return None
    variant = folder.name if folder.parent.name == "variants" else ""
    tested_again = "ckpt_path" in results and "fit_seconds" not in results
    kind = "variant" if variant else "evaluation" if tested_again else "run"
    modified = (path if path.exists() else found["config_file"]).stat().st_mtime
    return {
        **results,
        **found,
        "folder": folder,
        "kind": kind,
        "variant": variant,
        "config": config,
        "modified": modified,
    }


def _is_of_a_run(config: Any) -> bool:
    groups = [config.get(key) for key in NAMED] if isinstance(config, dict) else [None]
    return all(isinstance(group, dict) and isinstance(group.get("name"), str) for group in groups)
