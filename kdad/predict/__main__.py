"""Judge pictures by a trained detector: `python -m kdad.predict ckpt_path=<run> input=<folder>`.

`ckpt_path` is a checkpoint, or a run's folder, whose `checkpoints/tested.ckpt` is taken. `input` is a file, a folder
with all below it, a pattern, a list of these, or - for paths from standard input. It leaves scores.csv, and pictures of
where each image is anomalous. No code in a checkpoint is run. Exits with status 3 where a file cannot be read.

- `kdad predict ckpt_path=<file> 'input="parts/*.png"' hydra.run.dir=judged`: into a folder of your choice
- `kdad predict ckpt_path=<file> input=parts hydra.run.dir=judged skip_done=true`: go on after an interruption
- `kdad predict ckpt_path=<file> input=parts watch=true`: and with what arrives, until Ctrl-C
"""

import sys

from omegaconf import DictConfig

from kdad.engine.launch import launch
from kdad.errors import UserError
from kdad.settings.checks import check_configuration

UNREADABLE = 3  # exit status
_unreadable: list[str] = []


def main() -> None:
    """Run `kdad predict`, which is `python -m kdad.predict`."""
    _unreadable.clear()
    launch(predict, "predict", completes=False)
    if _unreadable:
        sys.exit(UNREADABLE)


def predict(cfg: DictConfig) -> None:
    """Judge what the configuration names. Raises `UserError`, with strict=true also for a file that cannot be read."""
    check_configuration(cfg, "predict")
    if not cfg.ckpt_path:
        raise UserError("ckpt_path=<run folder>/checkpoints/tested.ckpt is needed: the trained detector")
    from kdad.predict.judging import judge  # with torch, which a refusal need not wait for

    _unreadable.extend(judge(cfg))


if __name__ == "__main__":
    main()
