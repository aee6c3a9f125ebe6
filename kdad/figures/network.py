"""A run's network built anew, with the weights that were tested, and what it costs on this machine."""

import json
from pathlib import Path
from typing import cast

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from kdad.engine.build import build_detector
from kdad.engine.checkpoint import Checkpoint
from kdad.engine.costs import count_parameters, time_detectors
from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from kdad.models.base import KDDetector
from kdad.results.series import find_file, print_remark

BUILT_FROM = ("model", "backbone", "levels", "image_size", "normalisation")  # keys of what a network is


def rebuild_detector(run: pd.Series) -> KDDetector:
    """Build a run's detector with the weights that it has tested, on the CPU.

    Raises `UserError` where its configuration, its checkpoint or its teacher's weights are missing.
    """
    cfg = cast(DictConfig, OmegaConf.load(find_file(run, "config_file")))  # `read_runs` has seen that it is one
    checkpoint = Checkpoint.load(locate_checkpoint(run))
    detector = build_detector(cfg)
    checkpoint.restore(detector)
    return detector.eval()


def locate_checkpoint(run: pd.Series) -> Path:
    """Return where the weights lie that a run has tested. Raises `UserError` where they are gone."""
    given = run["config"].get("ckpt_path")
    home = run["folder"].parents[1] if run["config"].get("unified") else run["folder"]  # of a category, the run's
    path = home if run["kind"] == "run" or not given else Path(given).expanduser()
    path = RunFolder(path).checkpoint("tested") if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such file; the checkpoint of {run['folder']} is gone")
    return path


def measure_networks(runs: pd.DataFrame, repeats: int = 0) -> pd.DataFrame:
    """Measure the network of each distinct configuration once, and give it to all of its runs.

    Returns for each run, by its index, `parameters` (in all, the teacher's too) and with `repeats` the quartiles of the
    milliseconds that one image takes on the CPU: `low`, `latency`, `high`. A run without checkpoint, or whose network
    cannot be built here, is left out with a remark.
    """
    keys: dict[object, str] = {}
    detectors: dict[str, KDDetector] = {}
    for index, run in runs.iterrows():
        key = json.dumps([run["config"].get(name) for name in BUILT_FROM], sort_keys=True, default=str)
        try:
            if not run["config"]:
                raise UserError(f"{run['folder']} has no readable config.yaml")
            locate_checkpoint(run)
            if key not in detectors:
                detectors[key] = rebuild_detector(run)
            keys[index] = key
        except UserError as error:
            print_remark(f"left out: {str(error).partition(chr(10))[0]}")
    times = time_detectors(detectors, repeats) if repeats else {}
    measured: dict[str, dict[str, float]] = {}
    for key, detector in detectors.items():
        quartiles = {name: 1000 * seconds for name, seconds in times.get(key, {}).items()}
        measured[key] = {"parameters": count_parameters(detector)["parameters_total"], **quartiles}
    found = pd.DataFrame([measured[key] for key in keys.values()], index=pd.Index(list(keys)))
    return found.rename(columns={"median": "latency"})
