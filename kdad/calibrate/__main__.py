"""Set a trained detector's thresholds from pictures of your own: `python -m kdad.calibrate ckpt_path= normal=<folder>`.

Without training, into a new checkpoint beside the given one. `normal` are normal pictures that the detector has not
been trained on: a file, a folder with all below it, a pattern, or a list of these. With `anomalous` pictures it says
how many are detected; they set the thresholds only by rule=f1. No code in a checkpoint is run.

- `kdad calibrate ckpt_path=<run> normal=ok`: one false alarm in a hundred normal pictures
- `kdad calibrate ckpt_path=<run> normal=ok anomalous=scratched false_alarms=0.001`
"""

from omegaconf import DictConfig

from kdad.engine.launch import launch_without_folder
from kdad.errors import UserError
from kdad.settings.checks import check_configuration


def main() -> None:
    """Run `kdad calibrate`, which is `python -m kdad.calibrate`."""
    launch_without_folder(calibrate, "calibrate", completes=False)


def calibrate(cfg: DictConfig) -> None:
    """Judge the pictures and write a checkpoint with thresholds from them. Raises `UserError`."""
    check_configuration(cfg, "calibrate")
    if not cfg.ckpt_path or not cfg.normal:
        raise UserError("ckpt_path=<run folder or checkpoint> and normal=<folder of normal pictures> are needed")
    from kdad.calibrate.thresholds import set_thresholds  # with torch, which a refusal need not wait for

    set_thresholds(cfg)


if __name__ == "__main__":
    main()
