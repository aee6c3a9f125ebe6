"""The test of a run; of a unified run one on each of its categories, and their mean."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytorch_lightning as pl
from omegaconf import DictConfig

from kdad.data.base import AnomalyDataModule
from kdad.data.union import Union
from kdad.engine.protocols import ProtocolTest
from kdad.engine.record import is_first_process
from kdad.engine.run_folder import RunFolder
from kdad.engine.test import Evaluation, test
from kdad.metrics import Outcome
from kdad.metrics.detection import ImageRows
from kdad.models.base import KDDetector
from kdad.settings.compose import resolve
from kdad.settings.roles import config_hash


def test_all(
    cfg: DictConfig,
    results: dict[str, Any],
    trainer: pl.Trainer,
    detector: KDDetector,
    data: AnomalyDataModule,
    evaluation: Evaluation,
    folder: RunFolder,
    earlier: Sequence[Path] = (),
    counted: Sequence[ProtocolTest] = (),
) -> dict[str, Any]:
    """Test on all that the data hold, and return what results.json says of it: see `test`.

    `counted` are those of the trainer's callbacks that count the test by other protocols.

    Of a union each category is tested by itself and leaves what a run leaves in a folder of its own, with what
    `results` say of the training; what is returned is the mean over the categories.
    """

    def test_part(part: AnomalyDataModule, place: RunFolder) -> dict[str, Any]:
        for other in counted:
            other.tests.clear()
        found = test(trainer, detector, part, evaluation, place, earlier)
        return found | {key: value for other in counted for key, value in other.summarise().items()}

    if not isinstance(data, Union):
        return test_part(data, folder)
    each: dict[str, dict[str, Any]] = {}
    outcomes = []
    for part in data.divide_test():
        found = test_part(part, folder.category(part.category))
        each[part.category] = found | {"data_fingerprint": part.fingerprint}
        outcomes.append(evaluation.outcome)
    for name, found in each.items():
        write_category(cfg, name, results | found, folder)
    metrics = average_categories(each)
    evaluation.outcome = join_outcomes(outcomes, metrics)
    return {
        **metrics,
        "category": data.category,
        "categories": len(each),
        "category_names": list(each),
        **data.facts,
        "n_test": sum(found["n_test"] for found in each.values()),
        **data.store.describe(),
        "test_seconds": round(sum(found["test_seconds"] for found in each.values()), 3),
    }


def write_category(cfg: DictConfig, name: str, results: dict[str, Any], folder: RunFolder) -> None:
    """Write config.yaml and results.json of one category of a unified run into its own folder below the run's.

    The configuration is the run's, but for `category`; `dataset.category` still says which were trained on.
    """
    own, place = copy.deepcopy(cfg), folder.category(name)
    own.dataset.category = list(cfg.category)
    own.category = name
    known = results["config_hash"] is not None
    if is_first_process():
        place.write_config(own)
    place.write_results({**results, "status": "ok", "config_hash": config_hash(resolve(own)) if known else None})


def average_categories(each: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the results of several categories, by name, come to: means of metrics, and what all agree in.

    A metric that some category has not is null, with `<metric>_reason`. A spread over epochs, `<metric>_std`, is left
    out: of a mean it is another one.
    """
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for results in each.values() for key in results):
        values = [results.get(key, 0.0 if key.endswith("_error") else None) for results in each.values()]
        reasons = {name: results[f"{key}_reason"] for name, results in each.items() if f"{key}_reason" in results}
        if key.endswith("_std"):
            continue
        if reasons:
            found[key] = None
            several = len(reasons) < len(each) or len(set(reasons.values())) > 1
            said = [f"{name}: {reason}" for name, reason in reasons.items()] if several else [*reasons.values()][:1]
            found[f"{key}_reason"] = "; ".join(said)
        elif all(value == values[0] for value in values) and not key.endswith("_reason"):
            found[key] = values[0]
        elif all(isinstance(value, float) for value in values):
            found[key] = fmean(values)
    return found


def join_outcomes(outcomes: Sequence[Outcome], metrics: Mapping[str, Any]) -> Outcome:
    """Return one outcome for loggers: the mean metrics, and the scores of all categories, without any curves."""
    scores, labels = (np.concatenate([getattr(o.rows, name) for o in outcomes]) for name in ("score", "label"))
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.metrics)
    rows = ImageRows(np.arange(len(scores)), scores, labels)
    return Outcome({name: metrics.get(name) for name in names}, rows, {}, outcomes[0].mode, {}, [])
