"""Tiny trained detectors, of noise pictures that are not square."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from kdad.engine.run_folder import RunFolder
from kdad.run import run
from kdad.settings.compose import compose
from kdad.teacher import Teacher

MODELS = ["rd", "stpm", "mkd", "dskd"]
SIZE = 64


class Trained(NamedTuple):
    folder: Path
    checkpoint: Path
    weights: Path  # of the teacher
    pictures: Path


def train(model: str, place: Path, *more: str) -> Trained:
    """Train a detector on 8 normal pictures of 90 x 70 px and test it on 2 of them and 2 with a bright square.

    `more` is further overrides; `dataset=` among them takes other pictures.
    """
    generator, pictures, weights = np.random.default_rng(0), place / "pictures", place / "teacher.pth"
    for name, n in (("normal", 10), ("square", 2)):
        (pictures / name).mkdir(parents=True)
        for i in range(n):
            picture = generator.integers(60, 120, (70, 90, 3), dtype=np.uint8)
            if name == "square":
                picture[20:40, 30:50] = 230
            Image.fromarray(picture).save(pictures / name / f"{i}.png")
    torch.manual_seed(0)
    torch.save(
        Teacher("test_resnet.r160_in1k", pretrained=False, levels=[1, 2, 3], image_size=SIZE).body.state_dict(), weights
    )
    own = ["dataset=folder", f"dataset.root={pictures}", "dataset.anomalous=square"]
    overrides = [
        f"model={model}", *(() if any(word.startswith("dataset=") for word in more) else own), "backbone.name=test_resnet.r160_in1k", f"backbone.weights={weights}", f"image_size={SIZE}", "batch_size=4",
        "trainer.max_epochs=1", "trainer.accelerator=cpu", "+trainer.enable_progress_bar=false", "logger=none", "pictures=0",
        "levels=[1,2,3]", "average_epochs=1",
    ]  # fmt: skip
    if model == "mkd":
        overrides += ["normalisation=auto"]
    changed = {override.split("=")[0] for override in more}
    overrides = [*(override for override in overrides if override.split("=")[0] not in changed), *more]
    cfg = compose(*overrides)
    folder = RunFolder(place / "run")
    import kdad.engine.job as command

    kept, command.list_task_overrides = command.list_task_overrides, lambda cfg: overrides
    try:
        run(cfg, folder)
    finally:
        command.list_task_overrides = kept
    return Trained(folder.path, folder.checkpoint("tested"), weights, pictures)
