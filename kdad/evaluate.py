"""Test a checkpoint again without training: `python -m kdad.evaluate ckpt_path=<run>/checkpoints/tested.ckpt`.

The checkpoint brings its configuration; overrides change what does not need training, such as
`model.score_levels=[2,3]`, `model.sigma=0`, `model.map_size=64` or `dataset.root=`; others are refused. `-m` sweeps
them. `variants` in a run's configuration are such tests, made right after its own.
"""

import copy
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.seed import isolate_rng

from kdad.cli import changes, collected, completed, launch
from kdad.configuration import nearest, scoring_keys
from kdad.data.base import AnomalyDataModule
from kdad.errors import UserError
from kdad.evaluation import Evaluation
from kdad.features import attach_features
from kdad.jobs import (
    CONFIG,
    build,
    first_process,
    instantiate_detector,
    load_weights,
    make_trainer,
    recorded,
    show,
    test,
)
from kdad.lock import alone
from kdad.training import earlier_epochs, load_checkpoint

# What may change besides the model's scoring: where and how it is computed, and on which copy of the data. A backbone
# is compared by its weights' fingerprint.
FREE = (
    "backbone.", "default_backbone", "batch_size", "dataset.batch_size", "dataset.root", "dataset.download",
    "dataset.official", "dataset.obtain", "dataset.masks", "dataset.anomalous",
    "trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.precision", "trainer.deterministic",
    "trainer.limit_test_batches", "trainer.log_every_n_steps", "trainer.enable_progress_bar", "metrics.",
    "average_epochs",
)  # fmt: skip


def main() -> None:
    """`python -m kdad.evaluate` and the console script kdad-evaluate."""
    launch(job, CONFIG, stored_in="evaluations")


def job(cfg: DictConfig) -> None:
    """One job of the command line or of a sweep."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    show(evaluate(cfg, folder), folder)


def evaluate(cfg: DictConfig, folder: Path, data: AnomalyDataModule | None = None) -> dict[str, Any]:
    """Test the weights of `ckpt_path` and write what a run writes into `folder`; returns what results.json holds.

    With `average_epochs` above 1 the epochs before it are tested, too, whose weights must then lie beside it.
    `data`: of the run that made the checkpoint, decoded and with its teacher's features.
    """
    with alone(folder, first_process()), recorded(cfg, folder) as (results, begin):
        if not cfg.ckpt_path:
            raise UserError("ckpt_path=<run folder>/checkpoints/tested.ckpt is needed: the checkpoint to test")
        path = Path(cfg.ckpt_path).absolute()
        checkpoint = load_checkpoint(Path(cfg.ckpt_path))
        refuse_training(cfg, checkpoint)
        earlier = earlier_epochs(path, tested_epoch(checkpoint), cfg.average_epochs)
        known = data is not None
        data, detector = (data, instantiate_detector(cfg)) if known else build(cfg)
        load_weights(detector, checkpoint, path)
        detector.provenance = checkpoint["kdad"]
        evaluation = Evaluation(cfg.pictures, cfg.metrics)
        trainer = make_trainer(cfg, folder, data, False, evaluation)
        if not known:
            attach_features(detector, data, data.store, trainer.strategy.root_device)
        begin(keep_checkpoints=True)
        results |= {"ckpt_path": str(path), "tested_epoch": tested_epoch(checkpoint)}
        results |= test(trainer, detector, data, evaluation, folder, earlier)
    return results


def tested_epoch(checkpoint: dict[str, Any]) -> int:
    """How many epochs the weights have behind them; tested.ckpt says which it holds, others are of their last one."""
    return checkpoint["kdad"].get("tested_epoch", checkpoint["epoch"] + 1)


def refuse_training(cfg: DictConfig, checkpoint: dict[str, Any]) -> None:
    """Raises `UserError` where the configuration differs from the checkpoint's in what would need training.

    A key that is newer than the checkpoint cannot be compared.
    """
    scoring = scoring_keys(cfg)
    for key, (trained, value) in changes(cfg, checkpoint).items():
        if not key.startswith(FREE) and key not in scoring:
            raise UserError(
                f"{key}={value} needs training: the checkpoint {cfg.ckpt_path} was trained with {trained}. "
                f"Without training may change: {', '.join([*scoring, 'dataset.root', 'batch_size'])}. "
                "python -m kdad.run trains."
            )


def variants(cfg: DictConfig, folder: Path) -> dict[str, DictConfig]:
    """The configurations by which the weights trained in `folder` are tested further, by name.

    Raises `UserError` where one changes what needs training.
    """
    found, scoring = {}, scoring_keys(cfg)
    for name, changes in cfg.variants.items():
        if not str(name).replace("_", "").replace("-", "").isalnum():
            raise UserError(f"variants.{name}: a variant is a folder: name it by letters, digits, _ and -")
        merged = copy.deepcopy(cfg)
        merged.variants, merged.ckpt_path = {}, str(folder.absolute() / "checkpoints" / "tested.ckpt")
        for key, value in changes.items():
            if key not in scoring:
                raise UserError(
                    f"variants.{name}: {key} is not among the keys that may change without training: "
                    f"{', '.join(scoring)}. {nearest(key, scoring)}. To train with it, sweep it: -m {key}=..."
                )
            OmegaConf.update(merged, key, value, merge=False, force_add=True)
        found[str(name)] = merged
    return found


def check_variants(cfg: DictConfig, folder: Path) -> None:
    """Raises `UserError` where a variant changes what needs training, or has a value that its detector refuses."""
    for name, variant in variants(cfg, folder).items():
        with isolate_rng():
            try:
                instantiate_detector(variant)
            except UserError as error:
                raise UserError(f"variants.{name}: {error}") from error


def test_variants(cfg: DictConfig, folder: Path, data: AnomalyDataModule | None = None) -> None:
    """Test the weights trained in `folder` by every variant, into `variants/<name>` there; with skip_done, by those
    that have no results yet. Raises `UserError` at the end if some failed.
    """
    failures: list[str] = []
    for name, variant in variants(cfg, folder).items():
        place = folder / "variants" / name
        if cfg.skip_done and completed(place, variant):
            continue
        with collected(failures, f"variant {name}"):
            show(evaluate(variant, place, data), place)
    if failures:
        raise UserError(f"{len(failures)} of {len(cfg.variants)} variants failed:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()
