"""Result folders as `kdad.run` leaves them, with figures of the test's choice."""

import copy
import json
import os
from functools import cache, reduce

import hydra
import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from kdad.settings.compose import CONF, choose_optional

METRICS = ("image_auroc", "pixel_auroc", "pro")
SCORES = {"good": (0.1, 0.7, 0.2, 0.3), "crack": (0.9, 0.4, 1.0, 0.8)}  # 15 of 16 pairs in order


@cache
def composed(*overrides):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("run", choose_optional(list(overrides))), resolve=True)


@pytest.fixture
def write_run(tmp_path):
    """Write one run and return its folder.

    `scores` is one number for all metrics, or one for each; None: the run fails with `error`. `changes` are dotted
    keys of its configuration, `results` further keys of results.json, `age` seconds since it was written.
    """
    written = []

    def write(scores=0.9, *, model="rd", dataset="mvtec", category="grid", seed=0, folder=None, changes=None,
              error="out of memory", results=None, age=0.0):  # fmt: skip
        config = copy.deepcopy(composed(f"model={model}", f"dataset={dataset}"))
        for key, value in {"category": category, "seed": seed, **(changes or {})}.items():
            *groups, last = key.split(".")
            node = reduce(lambda inner, group: inner[group], groups, config)
            assert last in node
            node[last] = value
        folder = tmp_path / "runs" / (folder or str(len(written)))
        written.append(folder)
        folder.mkdir(parents=True)
        found = {
            "status": "failed" if scores is None else "ok", "model": model, "dataset": dataset, "category": category,
            "backbone": config["backbone"]["name"], "image_size": config["image_size"], "seed": seed, "split_seed": 0,
            "config_hash": f"{abs(hash(json.dumps(config))):016x}",
        }  # fmt: skip
        if scores is None:
            found |= {"error": error, **dict.fromkeys(METRICS)}
        else:
            scores = scores if isinstance(scores, dict) else dict.fromkeys(METRICS, scores)
            found |= scores | {"weights_fingerprint": "f00d", "fit_seconds": 100.0 + seed, "test_seconds": 2.0}
        (folder / "results.json").write_text(json.dumps(found | (results or {})))
        (folder / "config.yaml").write_text(yaml.dump(config, Dumper=yaml.CSafeDumper))
        os.utime(folder / "results.json", (1e9 - age, 1e9 - age))
        return folder

    return write


@pytest.fixture
def write_tested(write_run):
    """The same with what a test leaves on disk: 8 images with `SCORES`, their pictures of one colour each."""

    def write(masks=True, **about):
        folder = write_run({"image_auroc": 15 / 16, **dict.fromkeys(METRICS[1:], 0.75 if masks else None)}, **about)
        lines, pictures = ["path,label,score,kind,normalised_score,decision"], folder / "maps"
        pictures.mkdir()
        images = [(kind, score) for kind, scores in SCORES.items() for score in scores]
        for index, (kind, score) in enumerate(images):
            lines.append(
                f"/data/test/{kind}/{index:03d}.png,{int(kind != 'good')},{score},{kind},0.5,{int(score > 0.65)}"
            )
            colour = 30 * index, 128, 255 - 30 * index
            picture = Image.new("RGB", (118 if masks else 78, 38), colour)
            picture.save(pictures / f"{index:05d}_{kind}_{index:03d}.png")
        (folder / "scores.csv").write_text("\n".join(lines) + "\n")
        arrays = {"image_fpr": [0, 0, 0.25, 0.25, 1], "image_tpr": [0, 0.75, 0.75, 1, 1]}
        if masks:
            arrays |= {name: [0.0, 0.5, 1.0] for name in ("pixel_fpr", "pixel_tpr", "pro_fpr", "pro")}
        np.savez(folder / "curves.npz", **arrays)
        return folder

    return write
