"""Make a trained detector one file that needs no other: `python -m kdad.export ckpt_path=<run> format=checkpoint`.

`format=checkpoint` puts the teacher's weights into a copy of the checkpoint, which then works on a machine without
model hub and cache. No code in a checkpoint is run.
"""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from kdad.engine.launch import launch_without_folder
from kdad.errors import UserError
from kdad.inference.trained import OWN, build_trained, find_checkpoint, read_checkpoint, write_checkpoint
from kdad.settings.checks import check_configuration

FORMATS = ("checkpoint",)


def main() -> None:
    """Run `kdad export`, which is `python -m kdad.export`."""
    launch_without_folder(export, "export", completes=False)


def export(cfg: DictConfig) -> None:
    """Write the file that the configuration asks for. Raises `UserError`."""
    check_configuration(cfg, "export")
    if not cfg.ckpt_path:
        raise UserError("ckpt_path=<run folder or checkpoint> is needed: the trained detector")
    if cfg.format not in FORMATS:
        raise UserError(f"format={cfg.format}: give one of {', '.join(FORMATS)}")
    path = find_checkpoint(cfg.ckpt_path)
    output = Path(cfg.output).expanduser() if cfg.output else path.with_name(f"{path.stem}.whole{path.suffix}")
    detector, _, _ = build_trained(path, cfg.backbone.weights, list(cfg.plugins))
    content = read_checkpoint(path) | {OWN: detector.teacher.body.state_dict()}
    write_checkpoint(content, output, cfg.overwrite)
    size = output.stat().st_size / 1e6
    Console().print(f"Written: {output}, {size:.1f} MB, with the teacher {detector.teacher.tag}", soft_wrap=True)


if __name__ == "__main__":
    main()
