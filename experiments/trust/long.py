"""What grows in long work: a run of many epochs, a sweep of many jobs in one process, many predicted pictures.

    python experiments/trust/long.py /tmp/long --epochs 200 --jobs 300 --pictures 20000

Each is a command in a process of its own, on tiny pictures with a network of random weights. Twice a second memory, open
files and threads of the process are read, and every few seconds what its folder takes on disk; printed is what they
were after a tenth of the time, when all is loaded, and before the last tenth, in which a run is tested, and the slope
between them by least squares. `long.png` in the folder shows all of the time.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from kdad.teacher import Teacher

SIDE = 64
QUANTITIES = ("memory, MiB", "open files", "threads", "disk, MiB")
TINY = [
    "model=stpm", "dataset=mvtec", "category=tiny", "backbone.name=test_resnet.r160_in1k",
    f"image_size={SIDE}", "batch_size=4", "trainer.accelerator=cpu", "val_fraction=0", "monitor=null", "pictures=2",
    "logger=csv", "+trainer.enable_progress_bar=false",
]  # fmt: skip


def make_pictures(root: Path, train: int, test: int) -> None:
    """Write pictures of noise in MVTec's layout, every second one to test with a bright square."""
    rng = np.random.default_rng(0)
    for part, count in (("train/good", train), ("test/good", test - test // 2), ("test/spot", test // 2)):
        for folder in (part, f"ground_truth/{part.rpartition('/')[2]}"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture, mask = rng.integers(60, 120, (SIDE, SIDE, 3), dtype=np.uint8), np.zeros((SIDE, SIDE), np.uint8)
            if part == "test/spot":
                picture[20:40, 20:40] = mask[20:40, 20:40] = 255
                Image.fromarray(mask).save(root / f"ground_truth/spot/{i:05}_mask.png")
            Image.fromarray(picture).save(root / part / f"{i:05}.png")


def read_process(process: int) -> tuple[float, int, int]:
    """Return a process's resident memory in MiB, its open files and its threads. Raises `OSError` when it has ended."""
    place = Path(f"/proc/{process}")
    lines = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines() if ":" in line)
    return int(lines["VmRSS"].split()[0]) / 1024, len(list((place / "fd").iterdir())), int(lines["Threads"])


def measure_folder(folder: Path) -> float:
    """Return what the files in a folder take, in MiB."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # replaced meanwhile
            continue
    return total / 2**20


def watch(name: str, command: list[str], folder: Path, unit: str, count: int) -> list[np.ndarray]:
    """Run a command to its end and print a line on each quantity; return them, each as (seconds, value) over time."""
    rows: list[tuple[float, float, float, float]] = []
    sizes: list[tuple[float, float]] = []
    began = time.time()
    with (folder / f"{name}.txt").open("w") as log:
        running = subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        while running.poll() is None:
            now = time.time() - began
            try:
                rows.append((now, *read_process(running.pid)))
            except (OSError, KeyError):
                continue
            if not sizes or now - sizes[-1][0] > 5:
                sizes.append((now, measure_folder(folder)))
            time.sleep(0.5)
    seconds = time.time() - began
    print(f"\n{name}: {count} {unit}s in {seconds:.0f} s, status {running.returncode}\n", flush=True)
    print(f"| | after a tenth | before the last | a {unit} |\n|---|---|---|---|")
    columns = [np.array(rows)[:, [0, i]] for i in (1, 2, 3)] + [np.array(sizes)]
    for what, values in zip(QUANTITIES, columns, strict=True):
        late = values[(values[:, 0] > 0.1 * seconds) & (values[:, 0] < 0.9 * seconds)]
        slope = np.polyfit(late[:, 0], late[:, 1], 1)[0] * seconds / count
        print(f"| {what} | {late[0, 1]:.1f} | {late[-1, 1]:.1f} | {slope:+.4f} |", flush=True)
    return columns


def draw(watched: dict[str, list[np.ndarray]], path: Path) -> None:
    """Draw each quantity of each command over its time, from zero."""
    figure, panels = plt.subplots(len(QUANTITIES), len(watched), figsize=(3.6 * len(watched), 8), squeeze=False)
    for column, (name, quantities) in enumerate(watched.items()):
        for row, (what, values) in enumerate(zip(QUANTITIES, quantities, strict=True)):
            panel = panels[row, column]
            panel.plot(values[:, 0], values[:, 1], linewidth=1)
            panel.set(ylim=(0, 1.15 * values[:, 1].max() + 1), title=name if row == 0 else "", ylabel=what)
        panels[-1, column].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Make the pictures and watch the three."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--pictures", type=int, default=20_000)
    given = parser.parse_args()
    folder = given.folder.absolute()
    make_pictures(folder / "data/tiny", 16, 8)
    torch.manual_seed(0)
    weights = folder / "teacher.pth"  # one for all jobs: with random ones each would keep features of its own
    torch.save(Teacher("test_resnet.r160_in1k", pretrained=False, levels=[1, 2, 3]).body.state_dict(), weights)
    tiny = [*TINY, f"dataset.root={folder / 'data'}", f"backbone.weights={weights}"]
    training = ["kdad.run", *tiny, f"trainer.max_epochs={given.epochs}", "checkpoint_seconds=0", "hydra.run.dir=run"]
    watched = {f"{given.epochs} epochs": watch("run", training, folder, "epoch", given.epochs)}
    seeds = ",".join(map(str, range(given.jobs)))
    sweep = ["kdad.run", "-m", *tiny, "trainer.max_epochs=1", f"seed={seeds}", "hydra.sweep.dir=sweep"]
    watched[f"{given.jobs} jobs"] = watch("sweep", sweep, folder, "job", given.jobs)
    make_pictures(folder / "more/tiny", given.pictures, 0)
    predict = ["kdad.predict", "ckpt_path=run", "input=more", "hydra.run.dir=judged"]
    watched[f"{given.pictures} pictures"] = watch("predict", predict, folder, "picture", given.pictures)
    draw(watched, folder / "long.png")


if __name__ == "__main__":
    main()
