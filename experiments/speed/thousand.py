"""Seconds that reports, figures and skip_done take of a folder of a thousand runs: `python thousand.py [names]`.

Each command is a process of its own, start included. The runs are made, not trained: configurations as `kdad.run`
writes them, with drawn results and scores, and drawn curves of as many points as real ones have.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from runs import spread

from kdad.engine.build import fingerprint_data
from kdad.engine.record import SEVEN
from kdad.results.statistics import list_averages
from kdad.settings.compose import compose, resolve
from kdad.settings.roles import config_hash

DETECTORS = ("rd", "stpm", "mkd", "dskd")
CATEGORIES = list_averages("mvtec")["average"]
SEEDS = 17
POINTS = {("image_fpr", "image_tpr"): 60, ("pixel_fpr", "pixel_tpr"): 1000, ("pro_fpr", "pro"): 300}
IMAGES = 100  # of a test


def make_data(root):
    """Write two pictures of each category, so that skip_done has data to look at."""
    for category in CATEGORIES:
        for part in ("train/good", "test/good", "test/bad"):
            (root / category / part).mkdir(parents=True)
            Image.new("RGB", (64, 64)).save(root / category / part / "000.png")
        (root / category / "ground_truth/bad").mkdir(parents=True)
        Image.fromarray(np.eye(64, dtype=bool)).save(root / category / "ground_truth/bad/000_mask.png")


def make_runs(folder, data, categories, seeds):
    """Write what `python -m kdad.run -m` of all detectors, these categories and seeds leaves, checkpoints aside."""
    rng, number = np.random.default_rng(0), 0
    for model in DETECTORS:
        for category in categories:
            cfg = compose(f"model={model}", "dataset=mvtec", f"dataset.root={data}", f"category={category}")
            drawn, fingerprint = resolve(cfg), fingerprint_data(cfg)
            for seed in range(seeds):
                make_run(folder / str(number), copy.deepcopy(drawn) | {"seed": seed}, fingerprint, rng)
                number += 1
    return number


def make_run(folder, config, fingerprint, rng):
    folder.mkdir(parents=True)
    config["dataset"]["seed"] = config["seed"] if config["dataset"].get("seed") is not None else None
    (folder / "config.yaml").write_text(yaml.dump(config, Dumper=yaml.CSafeDumper))
    results = {
        "status": "ok", "model": config["model"]["name"], "dataset": "mvtec", "category": config["category"],
        "backbone": config["backbone"]["name"], "image_size": config["image_size"], "seed": config["seed"],
        "split_seed": 0, "epochs": config["trainer"]["max_epochs"], "fit_seconds": 100.0, "test_seconds": 2.0,
        "config_hash": config_hash(config), "data_fingerprint": fingerprint,
        **dict(zip(SEVEN, map(float, rng.uniform(0.8, 1, len(SEVEN))), strict=True)),
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results, indent=2))
    lines = [
        f"{config['category']}/test/{i:03}.png,{i % 2},{rng.normal(i % 2 * 2):.6f},{'bad' if i % 2 else 'good'}"
        for i in range(IMAGES)
    ]
    (folder / "scores.csv").write_text("\n".join(["path,label,score,kind", *lines, ""]))
    curves = {}
    for (x, y), points in POINTS.items():
        curves[x] = np.sort(np.concatenate(([0, 1], rng.uniform(0, 1, points))))
        curves[y] = np.sort(np.concatenate(([0, 1], rng.beta(5, 1, points))))
    np.savez_compressed(folder / "curves.npz", **curves)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="24 runs, once")
    parser.add_argument("only", nargs="*", help="of what is printed (default: all)")
    given = parser.parse_args()
    categories, seeds, repeats = (CATEGORIES[:3], 2, 1) if given.quick else (CATEGORIES, SEEDS, given.repeats)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        make_data(base / "data")
        number = make_runs(base / "sweep", base / "data", categories, seeds)
        print(
            f"{number} runs; skip_done=true in the last three; seconds, median [lowest, highest] of {repeats}",
            flush=True,
        )
        job = ["model=rd", "dataset=mvtec", f"dataset.root={base / 'data'}", "skip_done=true"]
        varied = ["-m", *job[1:], f"model={','.join(DETECTORS)}", f"seed=range({seeds})", "hydra.sweep.dir=sweep"]
        named = ",".join(categories)
        commands = {
            "report": ["report", "sweep"],
            "report --compare": ["report", "sweep", "--compare", "--out", "tables"],
            **{kind: ["figures", kind, "sweep"] for kind in ("bars", "ranks", "curves", "histograms")},
            "one that is done": ["run", *job, f"category={categories[-1]}", "hydra.sweep.dir=sweep"],
            "all, a job each": ["run", *varied, f"category={named}"],
            "all, jobs of all categories": ["run", *varied, f"category=[{named}]"],
        }
        if unknown := set(given.only) - set(commands):
            parser.error(f"{', '.join(unknown)}: choose from {', '.join(commands)}")
        for name, arguments in commands.items():
            if given.only and name not in given.only:
                continue
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                said = subprocess.run(
                    [sys.executable, "-m", "kdad", *arguments], cwd=base, capture_output=True, text=True
                )
                seconds.append(time.perf_counter() - start)
                if said.returncode:
                    sys.exit(f"{name}: {said.stderr[-2000:]}")
            if arguments[0] == "run":
                done = said.stdout.count("Done already")
                if done != (number if "-m" in arguments else 1):
                    sys.exit(f"{name}: {done} were found done: {said.stdout[-2000:]}")
            print(f"{name:28} {spread(seconds)}", flush=True)


if __name__ == "__main__":
    main()
