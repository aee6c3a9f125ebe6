"""Whether two versions of kdad compute the same bits: `python experiments/same_bits/compare.py <commit> <commit or .>`.

Trains every detector on the demo with each version in turn, on this machine, since bits differ between processors: two
epochs at once, and one epoch followed by a second one that goes on from its checkpoint. Compares the losses of each
epoch, scores.csv, the metrics of results.json and every tensor of the checkpoints. Prints a row for each comparison and
exits with status 1 where anything differs. `.` is the working tree.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
RECIPES = {
    "rd": (),
    "stpm": ("optimizer.lr=0.4",),
    "mkd": ("normalisation=auto", "average_epochs=1"),
    "dskd": (),
}
METRICS = [f"{of}_{kind}" for of in ("image", "pixel") for kind in ("auroc", "ap", "f1_max")] + ["pro", "tested_epoch"]


@contextmanager
def source(commit: str) -> Iterator[Path]:
    """Yield a folder with this version's code."""
    if commit == ".":
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "code"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(place), commit], check=True)
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def start(code: Path, folder: Path, *overrides: str) -> None:
    """Run `python -m kdad.run` of this code into `folder`."""
    command = [sys.executable, "-m", "kdad.run", *overrides, f"hydra.run.dir={folder}"]
    # In the code's own folder, which Python looks into first: elsewhere it would find the version that lies there.
    environment = {**os.environ, "PYTHONPATH": str(code)}
    done = subprocess.run(command, env=environment, cwd=code, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def check_code(code: Path) -> None:
    """Exit unless the runs of this code are of this code."""
    ask = [sys.executable, "-c", "import kdad; print(kdad.__file__)"]
    found = subprocess.run(ask, env={**os.environ, "PYTHONPATH": str(code)}, cwd=code, capture_output=True, text=True)
    if not Path(found.stdout.strip()).is_relative_to(code):
        raise SystemExit(f"{code}: its runs would be of {found.stdout.strip()}")


def train(code: Path, folder: Path, model: str, batches: int | None) -> None:
    """Leave the runs `whole` and `resumed` of one detector in `folder`."""
    fixed = [
        f"model={model}", "dataset=demo", "category=brick", "backbone=efficientnet_lite0", "seed=0", "pictures=0",
        "checkpoint_seconds=0", "trainer.accelerator=cpu", *RECIPES[model],
        *([f"trainer.limit_train_batches={batches}"] if batches else []),
    ]  # fmt: skip
    start(code, folder / "whole", *fixed, "trainer.max_epochs=2")
    start(code, folder / "parts", *fixed, "trainer.max_epochs=1")
    last = folder / "parts" / "checkpoints" / "last.ckpt"
    # Into a folder of its own: versions differ in where they would put a run that goes on from a complete one.
    start(code, folder / "resumed", f"ckpt_path={last}", "trainer.max_epochs=2")


def losses(run: Path) -> list[dict[str, str]]:
    """Return the losses in each metrics.csv, of a resumed run too."""
    rows = (row for path in sorted(run.glob("log*/metrics.csv")) for row in csv.DictReader(path.open()))
    return [{name: value for name, value in row.items() if "loss" in name} for row in rows]


def scores(run: Path) -> list[dict[str, str]]:
    """Return label and score of each row of scores.csv, images by their names: the folder is this machine's."""
    rows = list(csv.DictReader((run / "scores.csv").open()))
    return [{"path": "/".join(Path(row["path"]).parts[-3:])} | {k: row[k] for k in ("label", "score")} for row in rows]


def metrics(run: Path) -> dict[str, Any]:
    """Return what results.json says of the test."""
    found = json.loads((run / "results.json").read_text())
    return {name: found.get(name) for name in METRICS}


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (where, tensor) of every tensor in nested containers."""
    if torch.is_tensor(value):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from tensors(part, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for key, part in enumerate(value):
            yield from tensors(part, f"{name}/{key}")


def different_tensors(a: Path, b: Path) -> list[str]:
    """Return the names of tensors that differ by any bit, or that one of the checkpoints lacks."""
    parts = []
    for path in (a, b):
        content = torch.load(path, map_location="cpu", weights_only=True)
        kept = {key: content[key] for key in ("state_dict", "optimizer_states") if key in content}
        parts.append(dict(tensors(kept)))
    first, second = parts
    names = first.keys() | second.keys()
    return sorted(n for n in names if n not in first or n not in second or not torch.equal(first[n], second[n]))


def compare(a: Path, b: Path) -> dict[str, str]:
    """Return what was compared of two runs, and "equal" or in what they differ."""
    found = {}
    for name, read in (("losses", losses), ("scores.csv", scores), ("metrics", metrics)):
        found[name] = "equal" if read(a) == read(b) else "DIFFERENT"
    for path in sorted((a / "checkpoints").glob("*.ckpt")):
        names = different_tensors(path, b / "checkpoints" / path.name)
        found[path.name] = f"{len(names)} tensors DIFFERENT, first {names[0]}" if names else "equal"
    return found


def main() -> int:
    """Run both versions and print the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("commits", nargs=2, help="two commits, or . for the working tree")
    parser.add_argument("--models", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--batches", type=int, help="of each epoch (default: all)")
    given = parser.parse_args()
    same = True
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        codes = [stack.enter_context(source(commit)) for commit in given.commits]
        for code in codes:
            check_code(code)
        for model in given.models:
            places = [folder / f"{number}_{model}" for number in (1, 2)]
            for code, place in zip(codes, places, strict=True):
                train(code, place, model, given.batches)
            for part in ("whole", "resumed"):
                for name, verdict in compare(places[0] / part, places[1] / part).items():
                    print(f"{model:5} {part:8} {name:12} {verdict}", flush=True)
                    same &= verdict == "equal"
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
