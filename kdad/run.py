"""Train and test one detector: `python -m kdad.run model=rd dataset=mvtec category=screw`.

- `kdad run -m model=rd,stpm dataset=mvtec category=grid,screw seed=0,1,2`: every combination
- `kdad run ckpt_path=<run>/checkpoints/last.ckpt`: go on after an interruption
- `kdad run +debug=cpu model=rd dataset=demo`: see it run, in a minute
"""

import copy
import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import kdad
from kdad.data.base import AnomalyDataModule
from kdad.engine.build import build, describe, fingerprint_data, make_trainer
from kdad.engine.categories import list_categories, test_all, unite
from kdad.engine.checkpoint import Checkpoint
from kdad.engine.combinations import check_average, list_impossible
from kdad.engine.decide import check_decision, decide
from kdad.engine.features import attach_features
from kdad.engine.fit import Training, fit, stop_early, takes_single, watch_best
from kdad.engine.launch import CONFIG, carry_on, launch, list_task_overrides, name_sweep
from kdad.engine.loggers import log_test, make_logger, note_failure, open_logger, summarise
from kdad.engine.protocols import watch_protocols
from kdad.engine.retest import check_variants, test_variants
from kdad.engine.run_folder import RunFolder
from kdad.engine.search import check_objective, compute_objective
from kdad.engine.show import show
from kdad.engine.sweep import note_results
from kdad.engine.test import Evaluation
from kdad.errors import UserError
from kdad.inference.decision import read_setting
from kdad.settings.checks import check_configuration
from kdad.settings.compose import resolve
from kdad.settings.roles import config_hash

log = logging.getLogger(__name__)


def main() -> None:
    """Run `kdad run`, which is `python -m kdad.run`."""
    launch(job, CONFIG, impossible=list_impossible)


def job(cfg: DictConfig) -> float | None:
    """Do one job of the command line or of a sweep: one category, or several, each into a subfolder of its own.

    With `unified` the job is one detector for all of its categories.

    Returns the objective, if the configuration names one.
    """
    started = HydraConfig.get()
    folder = Path(started.runtime.output_dir)
    check_objective(cfg.objective, cfg.objective_on_test_data, direction=started.sweeper.get("direction"))
    roots = [Path(started.sweep.dir), Path("outputs")]
    unite(cfg)
    names = [] if cfg.unified else list_categories(cfg)
    if not names:
        return compute_objective(cfg.objective, [run_unless_done(cfg, RunFolder(folder), roots)])
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    for name in names:
        part = copy.deepcopy(cfg)
        part.category = name
        with carry_on(failures, name):
            results.append(run_unless_done(part, RunFolder(folder / name), roots, f"category={name}"))
    if failures:
        raise UserError(f"{len(failures)} of {len(names)} categories failed:\n" + "\n".join(failures))
    return compute_objective(cfg.objective, results)


def run_unless_done(cfg: DictConfig, folder: RunFolder, roots: list[Path], *chosen: str) -> dict[str, Any]:
    """Run a job, with skip_done only what is not done here or below `roots`; return what results.json holds."""
    if cfg.skip_done:
        wanted, data = config_hash(resolve(cfg)), fingerprint_data(cfg)
        if done := folder.find_done(wanted, roots, data):
            print(f"Done already: {done}")
            note_results(done)
            test_variants(cfg, done)
            return done.read()
        if other := folder.find_done(wanted, roots):
            print(f"Not done: {other} is of this configuration, but the data have changed since")
        folder = folder.find_free(wanted)
        if not cfg.ckpt_path and (last := find_last(folder, cfg, data)):
            print(f"Goes on: {last}")
            cfg = copy.deepcopy(cfg)
            cfg.ckpt_path = str(last.absolute())
    elif goes_on_in(folder, cfg) and folder.is_complete() and not cfg.overwrite:
        wanted = config_hash(resolve(cfg))
        if folder.is_trained(wanted, fingerprint_data(cfg)):
            print(f"Done already: {folder}. overwrite=true tests it once more")
            note_results(folder)
            return folder.read()
        folder = folder.find_free(wanted)
        print(f"The run that the checkpoint is of is complete and stays as it is; this one goes to {folder}")
    return run(cfg, folder, *chosen)


def find_last(folder: RunFolder, cfg: DictConfig, data: str | None) -> Path | None:
    """Return the checkpoint that an interrupted job of this very configuration and data has left in its folder."""
    if not folder.is_interrupted():
        return None
    last = Checkpoint.load(folder.checkpoint("last"))
    same = not last.changed_when_resumed(resolve(cfg)) and last.provenance.get("data_fingerprint") == data
    return last.path if same else None


def goes_on_in(folder: RunFolder, cfg: DictConfig) -> bool:
    """Return whether the job goes on from a checkpoint of the run in this very folder."""
    origin = RunFolder.around(cfg.ckpt_path) if cfg.ckpt_path else None
    return origin is not None and origin.path.resolve() == folder.path.resolve()


def run(cfg: DictConfig, folder: RunFolder, *chosen: str) -> dict[str, Any]:
    """Train, test and write everything into `folder`, then test the variants; return what results.json holds.

    A failing variant leaves the results and the other variants as they are; `UserError` at the end names it.
    """
    note_results(folder)
    with folder.hold():
        results, data = train(cfg, folder, *chosen)
        show(results, folder)
        test_variants(cfg, folder, data)
    return results


def refuse_early(cfg: DictConfig, folder: RunFolder, wanted: str) -> None:
    """Refuse what can be known before data and networks are loaded. Raises `UserError`."""
    folder.refuse_to_replace(cfg.overwrite, wanted)
    if not goes_on_in(folder, cfg):
        folder.refuse_to_begin_again(cfg.overwrite)
    check_decision(cfg.decision)
    check_average(cfg.average_epochs, cfg.trainer, cfg.patience)


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


def train(cfg: DictConfig, folder: RunFolder, *chosen: str) -> tuple[dict[str, Any], AnomalyDataModule]:
    """Train and test once, or go on from `ckpt_path`; return what results.json holds, and the data.

    `chosen`: overrides that this job's checkpoints need besides those of the command line. Results of a run that went
    on with other settings are no configuration's: their `config_hash` is null, `changed_when_resumed` says why.
    """
    with folder.record(cfg) as record:
        check_configuration(cfg, CONFIG)
        record.add(**describe(cfg))
        refuse_early(cfg, folder, record.results["config_hash"])
        others = watch_protocols(cfg)
        resumed = Checkpoint.load(cfg.ckpt_path) if cfg.ckpt_path else None
        changed = resumed.changed_when_resumed(resolve(cfg)) if resumed else []
        with resumed.explain_root() if resumed else nullcontext():
            data, detector = build(cfg, rule=resumed.rule if resumed else None)
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

        evaluation = Evaluation(cfg.pictures, cfg.metrics, setting)
        told = copy.deepcopy(cfg)
        told.category = data.category  # the data set's default, where none was given
        logger = make_logger(told, folder, name_sweep())
        problems: list[str] = []
        with open_logger(logger, resolve(told), problems):
            callbacks = [evaluation, *others, *early, training, *([best] if best else [])]
            trainer = make_trainer(cfg, folder, data, logger, *callbacks)
            training.start_clock()
            attach_features(detector, data, data.store, trainer.strategy.root_device)
            folder.claim(cfg, record, keep_checkpoints=path is not None and folder.owns(path))
            record.add(**fit(trainer, detector, data, training, path))
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
    return record.results, data


if __name__ == "__main__":
    main()
