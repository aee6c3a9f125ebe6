"""Run folders as a test leaves them, written by the same code, of scores and maps of the tests' choice."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from kdad.data.samples import Sample
from kdad.engine.run_folder import RunFolder
from kdad.engine.test import Evaluation
from kdad.models.base import Detection

SIZE = 16
NORMAL, ANOMALOUS = 6, 8


@pytest.fixture
def write_run(tmp_path):
    """Write one run and return its folder. `noise` blurs the line between normal and anomalous scores."""

    def write(folder, model="stpm", category="grid", seed=0, noise=1.0, masks=True, error=None, pictures=64, **changes):
        folder = tmp_path / folder
        config = {"model": {"name": model, "score_levels": None} | changes, "backbone": {"name": "resnet18"}}
        config |= {"trainer": {"max_epochs": 1}, "image_size": SIZE, "seed": seed, "category": category}
        config |= {"dataset": {"name": "mvtec", "category": category}}
        results = {"status": "ok", "model": model, "dataset": "mvtec", "category": category, "seed": seed}
        results |= {"backbone": "resnet18", "image_size": SIZE}
        if error:
            results |= {"status": "failed", "error": error}
        else:
            evaluation = tested(np.random.default_rng(seed + 100), category, noise, masks, pictures)
            evaluation.write(RunFolder(folder))
            results |= evaluation.outcome.metrics
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(results | {"fit_seconds": 1.0}))
        OmegaConf.save(config, folder / "config.yaml")
        return folder

    return write


def tested(generator, category, noise, masks, pictures):
    samples = [
        Sample(Path(f"/data/{category}/test") / kind / f"{i:03d}.png", label, kind)
        for label, kind, count in ((0, "good", NORMAL), (1, "metal_dent", ANOMALOUS))
        for i in range(count)
    ]
    label = torch.tensor([sample.label for sample in samples])
    mask = torch.zeros(len(samples), 1, SIZE, SIZE, dtype=torch.bool)
    mask[label == 1, :, 2:6, 3:9] = True
    maps = torch.from_numpy(generator.random(mask.shape)) * noise + 0.3 * mask
    scores = maps.amax(dim=(1, 2, 3)) + torch.from_numpy(generator.random(len(samples))) * noise
    batch = {
        "index": torch.arange(len(samples)),
        "label": label,
        "image": torch.from_numpy(generator.random((14, 3, 16, 16))),
    }
    evaluation = Evaluation(pictures)
    trainer = SimpleNamespace(datamodule=SimpleNamespace(test_samples=samples))
    detector = SimpleNamespace(device="cpu", provenance={})
    evaluation.on_test_start(trainer, detector)
    evaluation.on_test_batch_end(
        trainer, detector, Detection(maps, scores), batch | ({"mask": mask} if masks else {}), 0
    )
    evaluation.on_test_end(trainer, detector)
    return evaluation
