"""Train one epoch and test on more images than memory holds, and say how much memory that took and how long a step waits.

    python experiments/memory/measure.py /tmp/many --train 40000 --test 20000

Makes the pictures first (256 px, noise in large grains, a bright square in half of the test), then runs `kdad run` on
them in a process of its own, with a network of random weights: the pictures are noise, and the accuracy means nothing.
Once a second it reads how much memory the process and its children keep resident; where the step waits is the share of
the training epoch that Lightning's simple profiler finds in fetching the next batch.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, SPOT = 256, 40
KDAD = [
    "model=stpm", "dataset=mvtec", "category=noise", "backbone.name=test_resnet.r160_in1k", "backbone.pretrained=false",
    "image_size=256", "trainer.max_epochs=1", "trainer.accelerator=cpu", "val_fraction=0", "monitor=null",
    "logger=none", "pictures=0", "+trainer.profiler=simple", "+trainer.enable_progress_bar=false",
]  # fmt: skip


def make_pictures(root: Path, train: int, test: int) -> None:
    """Write so many pictures to train and to test on, in MVTec's layout; those that are there already stay."""
    parts = [("train/good", train), ("test/good", test - test // 2), ("test/spot", test // 2)]
    for number, (part, count) in enumerate(parts):
        for folder in (part, f"ground_truth/{part.rpartition('/')[2]}"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            path = root / part / f"{i:05}.jpg"
            if path.exists():
                continue
            rng = np.random.default_rng([number, i])
            grains = Image.fromarray(rng.integers(60, 200, (32, 32, 3), dtype=np.uint8))
            picture = np.array(grains.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
            if part == "test/spot":
                mask = np.zeros((SIDE, SIDE), np.uint8)
                y, x = rng.integers(0, SIDE - SPOT, 2)
                picture[y : y + SPOT, x : x + SPOT] = mask[y : y + SPOT, x : x + SPOT] = 255
                Image.fromarray(mask).save(root / f"ground_truth/spot/{i:05}_mask.png")
            Image.fromarray(picture).save(path, quality=85)


def read_resident(process: int) -> float:
    """Return how many GiB a process and its children keep in memory; 0 where it has ended."""
    try:
        own = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) / 2**20  # type: ignore[index]
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (OSError, TypeError):
        return 0.0
    return own + sum(read_resident(int(child)) for child in children)


def main() -> None:
    """Make the pictures, run, and print a line of figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=40_000)
    parser.add_argument("--test", type=int, default=20_000)
    given, overrides = parser.parse_known_args()
    make_pictures(given.folder / "data/noise", given.train, given.test)
    command = [sys.executable, "-m", "kdad.run", *KDAD, f"dataset.root={given.folder / 'data'}"]
    command += [f"hydra.run.dir={given.folder / 'run'}", "overwrite=true", *overrides]
    began, most, seen = time.time(), 0.0, []
    with (given.folder / "log.txt").open("w") as log:
        running = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while running.poll() is None:
            most = max(most, read_resident(running.pid))
            seen.append(most)
            time.sleep(1)
    said = (given.folder / "log.txt").read_text()
    epoch, fetching = (find_seconds(said, name) for name in ("run_training_epoch", "train_dataloader_next"))
    print(" ".join(command[1:]))
    print(
        f"status {running.returncode}, {time.time() - began:.0f} s; most memory {most:.2f} GiB; training epoch "
        f"{epoch:.0f} s, waiting for batches {fetching:.1f} s: {100 * fetching / epoch:.1f} %"
    )


def find_seconds(said: str, action: str) -> float:
    """Return the total seconds of an action in what the simple profiler printed. Raises `ValueError` without it."""
    found = re.search(rf"{action}\s*\|\s*[\d.e+-]+\s*\|\s*\d+\s*\|\s*([\d.e+-]+)", said)
    if found is None:
        raise ValueError(f"the profiler has said nothing of {action}: see log.txt")
    return float(found[1])


if __name__ == "__main__":
    main()
