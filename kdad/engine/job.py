"""One training and its test, once the configuration is in order: what `kdad run` is for."""

import copy
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback

import kdad
from kdad.data.base import AnomalyDataModule
from kdad.engine.batch_norm import takes_single
from kdad.engine.build import build, describe_versions, make_trainer
from kdad.engine.checkpoint import Checkpoint
from kdad.engine.combinations import check_processes
from kdad.engine.decide import decide
from kdad.engine.extra import create_extra, try_out
from kdad.engine.features import attach_features
from kdad.engine.fit import Training, fit, stop_early, watch_best
from kdad.engine.launch import list_task_overrides
from kdad.engine.loggers import log_test, make_logger, note_failure, open_logger, summarise
from kdad.engine.protocols import watch_protocols
from kdad.engine.record import Record
from kdad.engine.retest import check_variants
from kdad.engine.run_folder import RunFolder
from kdad.engine.search import check_objective
from kdad.engine.sweep import name_sweep
from kdad.engine.test import Evaluation
from kdad.engine.unified import test_all
from kdad.inference.decision import read_setting
from kdad.models.base import KDDetector
from kdad.settings.compose import resolve
from kdad.speed import release_memory

log = logging.getLogger(__name__)


def describe_origin(
    cfg: DictConfig, data: AnomalyDataModule, changed: list[str], chosen: tuple[str, ...]
) -> dict[str, Any]:
    """Return plain values that every checkpoint of a run keeps: what made it, and from which images."""
    return {
        "config": OmegaConf.to_container(cfg),
        "overrides": [*list_task_overrides(cfg), *chosen],
        "changed_when_resumed": changed,
        "version": kdad.__version__,
        "data_fingerprint": data.fingerprint,
        "parts": data.list_parts(),
        "rule": data.rule.to_plain(),
        "roi": data.roi.to_plain() if data.roi else None,
    }


def train_and_test(
    cfg: DictConfig,
    folder: RunFolder,
    record: Record,
    chosen: tuple[str, ...] = (),
    begin: Callable[..., tuple[AnomalyDataModule, KDDetector]] | None = None,
    watching: Sequence[Callback] = (),
) -> AnomalyDataModule:
    """Train and test once, or go on from `ckpt_path`; add to the record what results.json will hold; return the data.

    The record says already what the job is of. `chosen`: overrides that this job's checkpoints need besides those of
    the command line. `begin` builds data and detector; callbacks that are `watching` come before kdad's own. Results
    of a run that went on with other settings are no configuration's: their `config_hash`
    is null, `changed_when_resumed` says why.
    """
    record.add(versions=describe_versions())
    others, extra = watch_protocols(cfg), create_extra(cfg)
    resumed = Checkpoint.load(cfg.ckpt_path) if cfg.ckpt_path else None
    changed = resumed.changed_when_resumed(resolve(cfg)) if resumed else []
    with resumed.explain_root() if resumed else nullcontext():
        data, detector = (begin or build)(cfg, rule=resumed.rule if resumed else None)
    try_out(cfg, data)
    record.add(data_fingerprint=data.fingerprint)
    data.takes_single = takes_single(detector)
    if resumed and (other := resumed.describe_changed_data(data)):
        log.warning("%s goes on with other data: %s", resumed.path, other)
        changed = [*changed, other]
    if changed:
        record.add(config_hash=None, changed_when_resumed=", ".join(changed))
    check_variants(cfg, folder)
    check_objective(cfg.objective, cfg.objective_on_test_data, len(data.val_samples))
    detector.provenance = describe_origin(cfg, data, changed, chosen)
    best = watch_best(folder, cfg.monitor, len(data.val_samples), cfg.average_epochs)
    early = stop_early(cfg.patience, len(data.val_samples))
    setting = read_setting(resolve(cfg)["model"], detector.scoring)
    thresholds = partial(decide, options=cfg.decision, setting=setting)
    training = Training(folder, cfg.seed, cfg.checkpoint_seconds, best, cfg.average_epochs, thresholds)
    if resumed:
        training.go_on(resumed, cfg.trainer.max_epochs)
        resumed.restore(detector)  # Lightning does it again, but after the folder is claimed
    path = resumed.path if resumed else None
    del resumed  # its optimiser's state would be in memory twice

    evaluation = Evaluation(cfg.pictures, cfg.metrics, setting, extra)
    told = copy.deepcopy(cfg)
    told.category = data.category  # the data set's default, where none was given
    logger = make_logger(told, folder, name_sweep())
    problems: list[str] = []
    with open_logger(logger, resolve(told), problems):
        callbacks = [*watching, evaluation, *others, *early, training, *([best] if best else [])]
        trainer = make_trainer(cfg, folder, data, logger, *callbacks)
        parts = {"train": data.train_samples, "validate": data.val_samples, "test": data.test_samples}
        check_processes({what: len(samples) for what, samples in parts.items()}, trainer.world_size)
        training.start_clock()
        device = trainer.strategy.root_device
        # Training need not wait for the features of test images; one in float64 or float16 turns the teacher into that.
        ahead = 1 if trainer.precision == "32-true" or "mixed" in str(trainer.precision) else len(data.pools)
        attach_features(detector, data.pools[:ahead], data.store, device)
        release_memory()
        folder.claim(cfg, record, keep_checkpoints=path is not None and folder.owns(path))
        record.add(**fit(trainer, detector, data, training, path))
        attach_features(detector, data.pools[ahead:], data.store, device)
        release_memory()
        if cfg.objective:
            record.add(objective=cfg.objective, objective_on_test_data=cfg.objective_on_test_data)
        earlier = training.earlier_epochs()
        record.add(**test_all(cfg, record.results, trainer, detector, data, evaluation, folder, earlier, others))
        record.finish()
        folder.write_results(record.results)  # before all that a logger does at the end
        with note_failure(problems):
            log_test(logger, record.results, evaluation.outcome, folder.maps)
            summarise(logger, record.results)
    if problems:
        record.add(logger_problems="; ".join(problems))
    return data
