"""Test a checkpoint again without training: `python -m kdad.evaluate ckpt_path=<run>/checkpoints/tested.ckpt`.

The checkpoint brings its configuration; overrides change what does not need training, such as
`model.score_levels=[2,3]`, `model.sigma=0`, `model.map_size=64` or `dataset.root=`. `-m` sweeps them.
"""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kdad.cli import launch
from kdad.errors import UserError
from kdad.evaluation import Evaluation
from kdad.features import attach_features
from kdad.jobs import CONFIG, build, make_trainer, recorded, show, test
from kdad.training import load_checkpoint


def main() -> None:
    """`python -m kdad.evaluate` and the console script kdad-evaluate."""
    launch(job, CONFIG, stored_in="evaluations")


def job(cfg: DictConfig) -> None:
    """One job of the command line or of a sweep."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    show(evaluate(cfg, folder), folder)


def evaluate(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Test the weights of `ckpt_path` and write what a run writes into `folder`; returns what results.json holds."""
    with recorded(cfg, folder) as results:
        if not cfg.ckpt_path:
            raise UserError("ckpt_path=<run folder>/checkpoints/tested.ckpt is needed: the checkpoint to test")
        checkpoint = load_checkpoint(Path(cfg.ckpt_path))
        data, detector = build(cfg)
        detector.on_load_checkpoint(checkpoint)
        try:
            detector.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise UserError(f"ckpt_path={cfg.ckpt_path}: its weights do not fit this configuration. {error}") from error
        evaluation = Evaluation(cfg.pictures)
        trainer = make_trainer(cfg, folder, data, False, evaluation)
        attach_features(detector, data, data.store, trainer.strategy.root_device)
        results |= {"ckpt_path": str(Path(cfg.ckpt_path).absolute()), "tested_epoch": checkpoint["epoch"]}
        results |= test(trainer, detector, data, evaluation, folder)
    return results


if __name__ == "__main__":
    main()
