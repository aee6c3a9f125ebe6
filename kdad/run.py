"""Train and test one detector: `python -m kdad.run model=rd dataset=mvtec category=screw`."""

import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from kdad.cli import create, finished, launch, task_overrides
from kdad.evaluation import Evaluation
from kdad.features import attach_features
from kdad.jobs import CONFIG, build, make_trainer, recorded, show, test
from kdad.loggers import free_version, opened
from kdad.training import Training, best_checkpoint, load_checkpoint


def main() -> None:
    """The console script and `python -m kdad.run`."""
    launch(job, CONFIG)


def job(cfg: DictConfig) -> None:
    """One job of the command line or of a sweep."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if cfg.skip_done and (done := finished(cfg)):
        print(f"Done already: {done}")
        return
    show(run(cfg, folder), folder)


def run(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Train, test and write everything into `folder`; returns what results.json holds.

    With `ckpt_path` training goes on from there.
    """
    with recorded(cfg, folder) as results:
        resume = Path(cfg.ckpt_path).absolute() if cfg.ckpt_path else None
        if resume:
            load_checkpoint(resume)  # refuses damaged files, and any that would run code
        data, detector = build(cfg)
        detector.provenance = {"config": OmegaConf.to_container(cfg), "overrides": task_overrides()}
        checkpoints = folder / "checkpoints"
        best = best_checkpoint(checkpoints, cfg.monitor, len(data.val_samples))
        training = Training(checkpoints, cfg.seed, cfg.checkpoint_seconds, best)
        evaluation = Evaluation(cfg.pictures)
        cfg.category = data.category
        logger = make_logger(cfg, folder)
        with opened(logger, OmegaConf.to_container(cfg, resolve=True)):
            trainer = make_trainer(cfg, folder, data, logger, evaluation, training, *([best] if best else []))
            start = time.perf_counter()
            attach_features(detector, data, data.store, trainer.strategy.root_device)
            trainer.fit(detector, datamodule=data, ckpt_path=resume)
            if trainer.interrupted:
                raise KeyboardInterrupt
            results |= {
                "epochs": trainer.current_epoch,
                "tested_epoch": training.tested_epoch or 0,
                "fit_seconds": round(time.perf_counter() - start, 3),
            }
            results |= test(trainer, detector, data, evaluation, folder)
    return results


def make_logger(cfg: DictConfig, folder: Path) -> Any:
    """The configured logger, writing below `folder`; False for none."""
    if not cfg.logger:
        return False
    if cfg.logger.get("version"):
        return create(cfg.logger, save_dir=str(folder), version=free_version(folder, cfg.logger.version))
    return create(cfg.logger, save_dir=str(folder))


if __name__ == "__main__":
    main()
