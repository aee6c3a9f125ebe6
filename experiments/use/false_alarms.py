"""False alarms promised against measured: python experiments/use/false_alarms.py <folder for runs> <table.csv>

For each of ten splits a detector is trained, thresholds are taken by each rule from images held out for that, and from the
training images; then they meet normal images that the detector has never seen. Goes on where it was interrupted.
"""

import csv
import os
import sys
from pathlib import Path

import numpy as np

import kdad
from kdad.engine.build import list_data
from kdad.engine.run_folder import RunFolder
from kdad.inference.decision import Normals
from kdad.run import run
from kdad.settings.compose import compose

DATA = Path(os.environ["KDAD_DATA"])
KINDS = ("bent", "broken", "glue", "metal_contamination", "thread")
GRID = ["dataset=folder", f"dataset.root={DATA / 'mvtec/grid'}", "dataset.normal=[train/good,test/good]",
        f"dataset.anomalous=[{','.join(f'test/{kind}' for kind in KINDS)}]", "dataset.test_fraction=0.3"]  # fmt: skip
SETS = {"grid": GRID, "mtd": ["dataset=mtd", "category=all", "dataset.max_train=250"]}
EPOCHS = {"rd": 20, "stpm": 20, "dskd": 10, "mkd": 60}
RULES = {"quantile 0.01": ("quantile", 0.01, 3), "quantile 0.05": ("quantile", 0.05, 3), "quantile 0.1": ("quantile", 0.1, 3),
         "mean_std 3": ("mean_std", 0.01, 3), "max": ("max", 0.01, 3)}  # fmt: skip
COLUMNS = ("set", "model", "split", "source", "rule", "images", "promised", "false_alarms", "marked", "detected", "n_normal",
           "n_anomalous", "image_auroc")  # fmt: skip


def judge(detector, samples):
    found = Normals()
    for result in detector(str(sample.path) for sample in samples):
        found.add(np.array([result.score]), result.map[None])
    return found


def main(runs: Path, table: Path) -> None:
    done = set()
    if table.exists():
        with table.open(newline="") as file:
            done = {(row["set"], row["model"], row["split"]) for row in csv.DictReader(file)}
    else:
        table.write_text(",".join(COLUMNS) + "\n")
    for split in range(10):
        for name, overrides in SETS.items():
            for model, epochs in EPOCHS.items():
                if (name, model, str(split)) in done:
                    continue
                more = ["normalisation=auto", "average_epochs=1"] if model == "mkd" else []
                cfg = compose(
                    f"model={model}", *overrides, *more, "backbone=efficientnet_lite0", "image_size=64",
                    f"dataset.split_seed={split}", f"seed={split}", "calibration_fraction=0.2", "pictures=0", "logger=none",
                    f"trainer.max_epochs={epochs}", "overwrite=true", "+trainer.enable_progress_bar=false",
                )  # fmt: skip
                folder = RunFolder(runs / f"{name}_{model}_{split}")
                auroc = run(cfg, folder)["image_auroc"]
                detector, data = kdad.load(folder.path), list_data(cfg)
                normal = judge(detector, [sample for sample in data.test_samples if not sample.label])
                anomalous = judge(detector, [sample for sample in data.test_samples if sample.label])
                rows = []
                sources = {"calibration": data.calibration_samples, "training": data.train_samples}
                if data.val_samples:
                    sources["validation"] = data.val_samples
                for source, samples in sources.items():
                    seen = judge(detector, samples)
                    for rule, options in RULES.items():
                        found = seen.decide(*options, source, {})
                        rows.append([
                            name, model, split, source, rule, found.n_images, found.promise(),
                            np.mean(np.array(normal.scores) > found.image_threshold),
                            np.mean(np.array(normal.largest) > found.pixel_threshold),
                            np.mean(np.array(anomalous.scores) > found.image_threshold),
                            len(normal.scores), len(anomalous.scores), auroc,
                        ])  # fmt: skip
                with table.open("a", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerows(rows)
                for path in folder.checkpoints.iterdir():
                    path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
