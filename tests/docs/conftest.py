"""A folder in which what the docs print has what it speaks of: run folders, pictures, a plug-in."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.docs.blocks import ROOT, read_blocks
from tests.inference.trained import train
from tests.layouts import N_ANOMALOUS, N_NORMAL, N_TRAIN, SQUARE, fill, mask, mvtec_ad2, pictures, save


@pytest.fixture(scope="session")
def printed(tmp_path_factory):
    """The folder, made once."""
    place = tmp_path_factory.mktemp("printed")
    trained = train("rd", place / "made")
    normal, square = (sorted((trained.pictures / name).iterdir()) for name in ("normal", "square"))
    for name, files in (
        ("parts/normal", normal), ("parts", square), ("parts/anomalous", square), ("ok", normal[:4]), ("scratched", square), ("pictures/normal", normal),
        ("pictures/scratch", square), ("pictures/dent", square), ("line2/ok", normal[:4]), ("line2/bad", square),
        ("demo/brick/test/good", normal[:4]), ("demo/brick/test/hole", square), ("demo/brick/test/scratch", square),
    ):  # fmt: skip
        (place / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, place / name)
    region = np.zeros((70, 90), np.uint8)
    region[SQUARE] = 255
    for kind in ("scratch", "dent"):
        for file in square:
            save(place / "pictures/masks" / kind / file.name, region)
    shutil.copytree(place / "pictures/masks/dent", place / "line2/masks/bad")
    Image.fromarray(np.full((70, 90), 255, np.uint8)).save(place / "parts/fixture.png")
    for name in ("part.png", "a.png", "b.png"):
        shutil.copy(normal[0], place / name)
    rows = [f"pictures/normal/{file.name},normal" for file in normal]
    (place / "files.csv").write_text("\n".join(["path,label", *rows, f"pictures/dent/{square[0].name},anomalous"]))
    extending = ROOT / "docs/extending.md"
    for name in ("mine", "odd", "dice"):
        block = next(b for b in read_blocks(extending, "python") if f"class {name.title()}" in b)
        (place / f"{name}.py").write_text(block)
    lay_out_lines(place / "data/odd")
    for category in ("bottle", "grid", "screw", "zipper"):
        lay_out_mvtec(place / "data/mvtec" / category)
    mvtec_ad2(place / "data/mvtec_ad2")
    lay_out_mnist(place / "data/mnist")
    (place / "teacher").mkdir()
    torch.manual_seed(0)
    save_file(timm.create_model("resnet18").state_dict(), place / "teacher/resnet18_mnist.safetensors")
    train_detectors(place, trained.weights)
    for folder, name, block in zip(
        ("model", "dataset", "dataset"), ("mine", "parts", "odd"), read_blocks(extending, "yaml"), strict=True
    ):
        (place / "conf" / folder).mkdir(parents=True, exist_ok=True)
        (place / "conf" / folder / f"{name}.yaml").write_text(block)
    return Path(place)


def train_detectors(place, weights):
    """Train what `run` and its like are, and a study of two detectors, two categories and fewer or worse images."""
    masked = f"dataset.root={place / 'pictures'}", "dataset.anomalous=[scratch,dent]", "dataset.masks=masks"
    made = train("rd", place / "made/run", f"backbone.weights={weights}", "dataset=folder", *masked, "pictures=4")
    for name in ("run", "other", "first"):
        shutil.copytree(made.folder, place / name)
        for form in ("whole", "calibrated"):
            shutil.copy(made.checkpoint, place / name / f"checkpoints/tested.{form}.ckpt")
    grid, screw, can = "category=grid", "category=screw", "category=can"
    worse = ("dataset.max_contamination=0.1", "dataset.contamination=0.1")
    for name, model, *overrides in (
        ("outputs/study/0", "rd", "dataset=mvtec", grid), ("outputs/study/1", "rd", "dataset=mvtec", screw),
        ("outputs/study/2", "stpm", "dataset=mvtec", grid), ("outputs/study/3", "stpm", "dataset=mvtec", screw),
        ("outputs/study/4", "rd", "dataset=mvtec", grid, "dataset.shots=2"),
        ("outputs/study/5", "rd", "dataset=mvtec", grid, "dataset.shots=4"), ("outputs/study/6", "rd", "dataset=mvtec", grid, *worse),
        ("ad2/0", "rd", "dataset=mvtec_ad2", can),
    ):  # fmt: skip
        data = f"dataset.root={place / 'data' / overrides[0].partition('=')[2]}"
        made = train(model, place / "made" / name, f"backbone.weights={weights}", *overrides, data)
        shutil.copytree(made.folder, place / name)


def lay_out_lines(root):
    """Make the data set of the printed class `Odd`: two lines, 6 pictures of monday, 3 normal and 2 bad of tuesday."""
    generator = np.random.default_rng(0)
    for line in ("left", "right"):
        for day, kind, count in (("monday", "ok", 6), ("tuesday", "ok", 3), ("tuesday", "bad", 2)):
            for number in range(count):
                picture = generator.integers(60, 120, (70, 90, 3), np.uint8)
                path = root / line / day / f"{number}_{kind}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "bad":
                    picture[20:40, 30:50] = 255
                    mask = (picture.min(axis=2) == 255).astype(np.uint8) * 255
                    (root / line / "masks").mkdir(exist_ok=True)
                    Image.fromarray(mask).save(root / line / "masks" / path.name)
                Image.fromarray(picture).save(path)


def lay_out_mvtec(root):
    """Make a category: 8 normal pictures to train, 3 to test, and 2 with a bright square and its mask."""
    fill(root / "train/good", N_TRAIN, pictures())
    fill(root / "test/good", N_NORMAL, pictures())
    for path in fill(root / "test/square", N_ANOMALOUS, pictures(anomalous=True)):
        save(root / f"ground_truth/square/{path.stem}_mask.png", mask())


def lay_out_mnist(root):
    """Make MNIST's files, of 40 pictures to train and 20 to test, in the layout that torchvision reads."""
    generator = np.random.default_rng(0)
    for name, count in (("train", 40), ("t10k", 20)):
        raw = root / "MNIST/raw"
        raw.mkdir(parents=True, exist_ok=True)
        images = generator.integers(0, 256, (count, 28, 28), np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 2051, *images.shape) + images.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, count) + labels.tobytes())


@pytest.fixture
def at_printed(printed, monkeypatch):
    """The same folder as the current one, and on Python's path."""
    monkeypatch.chdir(printed)
    monkeypatch.syspath_prepend(str(printed))
    return printed
