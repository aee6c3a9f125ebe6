"""Train and test one detector: `python -m kdad.run model=rd dataset=mvtec category=screw`."""

import copy
import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger

from kdad.cli import (
    changes,
    collected,
    create,
    finished,
    free_place,
    launch,
    stored,
    sweep_name,
    task_overrides,
)
from kdad.configuration import check_configuration
from kdad.data.base import AnomalyDataModule
from kdad.errors import UserError
from kdad.evaluate import check_variants, test_variants
from kdad.evaluation import Evaluation
from kdad.features import attach_features
from kdad.jobs import CONFIG, build, first_process, load_weights, make_trainer, recorded, show, test
from kdad.lock import alone
from kdad.loggers import free_version, opened, summarise
from kdad.objective import TRAINING, check_objective, objective_value
from kdad.training import Training, best_checkpoint, check_average, earlier_epochs, load_checkpoint

log = logging.getLogger(__name__)


def main() -> None:
    """The console script and `python -m kdad.run`."""
    launch(job, CONFIG)


def job(cfg: DictConfig) -> float | None:
    """One job of the command line or of a sweep: one category, or each into a subfolder of its own.

    Returns the objective, if the configuration names one.
    """
    started = HydraConfig.get()
    folder = Path(started.runtime.output_dir)
    check_objective(cfg.objective, cfg.objective_on_test_data, direction=started.sweeper.get("direction"))
    names = every_category(cfg)
    if not names:
        return objective_value(cfg.objective, [one_category(cfg, folder)])
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    for name in names:
        part = copy.deepcopy(cfg)
        part.category = name
        with collected(failures, name):
            results.append(one_category(part, folder / name, f"category={name}"))
    if failures:
        raise UserError(f"{len(failures)} of {len(names)} categories failed:\n" + "\n".join(failures))
    return objective_value(cfg.objective, results)


def every_category(cfg: DictConfig) -> list[str]:
    """What `category=all` stands for; none where one category is meant, which may itself be called `all`."""
    if cfg.category != "all":
        return []
    try:
        check_configuration(cfg, CONFIG)
        data = create(cfg.dataset)
        names = data.categories()
    except UserError:  # the run meets it too, and records it
        return []
    if "all" in names:
        return []
    if cfg.ckpt_path:
        raise UserError("ckpt_path with category=all: a checkpoint is of one category, name it")
    if missing := [name for name in data.official if name not in names]:
        log.warning(
            "data set %s: %d of its %d categories are not in %s: %s",
            data.name, len(missing), len(data.official), data.root, ", ".join(missing),
        )  # fmt: skip
    return names[: cfg.max_categories]


def one_category(cfg: DictConfig, folder: Path, *chosen: str) -> dict[str, Any]:
    """`run`, or with skip_done only what is missing of it; returns what results.json holds."""
    if cfg.skip_done:
        if done := finished(cfg, folder):
            print(f"Done already: {done}")
            test_variants(cfg, done)
            return stored(done)
        folder = free_place(cfg, folder)
    return run(cfg, folder, *chosen)


def run(cfg: DictConfig, folder: Path, *chosen: str) -> dict[str, Any]:
    """Train, test and write everything into `folder`, then test the variants; returns what results.json holds.

    A failing variant leaves the results and the other variants as they are; `UserError` at the end names it.
    """
    with alone(folder, first_process()):
        results, data = train(cfg, folder, *chosen)
        show(results, folder)
        test_variants(cfg, folder, data)
    return results


def train(cfg: DictConfig, folder: Path, *chosen: str) -> tuple[dict[str, Any], AnomalyDataModule]:
    """Train and test once, or go on from `ckpt_path`.

    `chosen`: overrides that this job's checkpoints need besides those of the command line. Results of a run that went
    on with other settings are no configuration's: their `config_hash` is null, `changed_when_resumed` says why.
    """
    with recorded(cfg, folder) as (results, begin):
        resume = Path(cfg.ckpt_path).absolute() if cfg.ckpt_path else None
        checkpoint = load_checkpoint(resume) if resume else None
        changed = changed_when_resumed(cfg, checkpoint) if checkpoint else []
        if changed:
            results |= {"config_hash": None, "changed_when_resumed": ", ".join(changed)}
        check_average(cfg.average_epochs, cfg.trainer)
        data, detector = build(cfg)
        check_variants(cfg, folder)
        check_objective(cfg.objective, cfg.objective_on_test_data, len(data.val_samples))
        detector.provenance = {
            "config": OmegaConf.to_container(cfg),
            "overrides": [*task_overrides(), *chosen],
            "changed_when_resumed": changed,
        }
        checkpoints = folder / "checkpoints"
        best = best_checkpoint(checkpoints, cfg.monitor, len(data.val_samples), cfg.average_epochs)
        training = Training(checkpoints, cfg.seed, cfg.checkpoint_seconds, best, cfg.average_epochs)
        if checkpoint:
            training.go_on(checkpoint, resume, cfg.trainer.max_epochs)
            load_weights(detector, checkpoint, resume)  # Lightning does it again, but after `begin`
        del checkpoint  # its optimiser's state would be in memory twice
        evaluation = Evaluation(cfg.pictures, cfg.metrics)
        told = OmegaConf.merge(cfg, {"category": data.category})
        logger = make_logger(told, folder)
        with opened(logger, OmegaConf.to_container(told, resolve=True)):
            trainer = make_trainer(cfg, folder, data, logger, evaluation, training, *([best] if best else []))
            training.started = time.perf_counter()
            attach_features(detector, data, data.store, trainer.strategy.root_device)
            begin(keep_checkpoints=resume is not None and resume.parent.resolve() == checkpoints.resolve())
            trainer.fit(detector, datamodule=data, ckpt_path=resume)
            if trainer.interrupted:
                raise KeyboardInterrupt
            results |= {
                "epochs": trainer.current_epoch,
                "tested_epoch": training.tested_epoch or 0,
                "fit_seconds": round(training.seconds(), 3),
                **losses(trainer, best),
            }
            if cfg.objective:
                results |= {"objective": cfg.objective, "objective_on_test_data": cfg.objective_on_test_data}
            earlier = earlier_epochs(checkpoints / "tested.ckpt", training.tested_epoch or 0, cfg.average_epochs)
            results |= test(trainer, detector, data, evaluation, folder, earlier)
            summarise(logger, results)
    return results, data


def changed_when_resumed(cfg: DictConfig, checkpoint: dict[str, Any]) -> list[str]:
    """The keys whose values were others when the checkpoint was made, or before.

    How long training lasts is no such key where no schedule depends on it, since the epochs are then the same ones.
    """
    same = {"average_epochs", *(() if checkpoint.get("lr_schedulers") else ("trainer.max_epochs",))}
    return sorted({*checkpoint["kdad"].get("changed_when_resumed", []), *changes(cfg, checkpoint)} - same)


def make_logger(cfg: DictConfig, folder: Path) -> Any:
    """The configured logger, writing below `folder`; False for none."""
    if not cfg.logger:
        return False
    more: dict[str, Any] = {"save_dir": str(folder)}
    if cfg.logger.get("version"):
        more["version"] = free_version(folder, cfg.logger.version)
    if "group" in cfg.logger:
        more["group"] = cfg.logger.group or sweep_name() or f"{cfg.model.name}_{cfg.dataset.name}"
    if "tags" in cfg.logger:
        more["tags"] = [str(tag) for tag in cfg.logger.tags]  # a digit as category is a number to YAML
    logger = create(cfg.logger, **more)
    if isinstance(logger, WandbLogger):
        try:
            logger.experiment  # noqa: B018 - signs in, before any training
        except Exception as error:
            if not type(error).__module__.startswith("wandb"):
                raise
            raise UserError(
                f"logger=wandb: {str(error).strip()} - logger.offline=true needs neither account nor network, and "
                "`wandb sync` sends the run later"
            ) from error
    return logger


def losses(trainer: pl.Trainer, best: ModelCheckpoint | None) -> dict[str, float]:
    """The last epoch's means; of the validation loss the lowest, where its weights are the ones tested."""
    found = {key: trainer.callback_metrics[key].item() for key in TRAINING if key in trainer.callback_metrics}
    if best is not None and best.best_model_score is not None:
        found[best.monitor] = best.best_model_score.item()
    return found


if __name__ == "__main__":
    main()
