"""A teacher of one's own: `python -m kdad.pretrain dataset=mnist backbone=resnet18` (STPM, Table 4).

Trains a timm network to classify a labelled set, from random weights, and writes `<backbone>_<dataset>.safetensors`,
which `backbone.weights=` takes, with a JSON file beside it that says how good it is. Images are normalised by the
statistics that timm states for the backbone, so that `normalisation=auto` fits the new weights as it fits timm's.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from kdad.engine.launch import launch
from kdad.engine.record import is_first_process

if TYPE_CHECKING:
    from kdad.engine.pretraining import LabelledImages as LabelledImages

CONFIG = "pretrain"


def main() -> None:
    """Run `kdad pretrain`, which is `python -m kdad.pretrain`."""
    launch(run_pretraining, CONFIG)


def run_pretraining(cfg: DictConfig) -> None:
    """Train a teacher and say how good it is and how to use it: one job of the command line or of a sweep."""
    from kdad.engine.pretraining import train_teacher  # with torch, which --help need not wait for

    file, facts = train_teacher(cfg, Path(HydraConfig.get().runtime.output_dir))
    if is_first_process():
        console = Console()
        console.print(
            f"{facts['backbone']} on {facts['dataset']}: {facts['accuracy']:.2%} of {facts['n_test']} test images "
            f"right after {facts['epochs']} epochs, {facts['fit_seconds']:.0f} s.\n{file}",
            soft_wrap=True,
        )
        keys = "" if cfg.backbone.weight_keys == "by_name" else " backbone.weight_keys=by_name"
        backbone = HydraConfig.get().runtime.choices["backbone"]
        console.print(f"Use it: backbone={backbone} backbone.weights={file}{keys}", soft_wrap=True, highlight=False)


def __getattr__(name: str) -> Any:
    """Import what trains a teacher when it is first asked for; configurations name `LabelledImages`."""
    if name not in ("LabelledImages", "train_teacher"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kdad.engine import pretraining

    return getattr(pretraining, name)


if __name__ == "__main__":
    main()
