"""A folder in which what the docs print has what it speaks of: run folders, pictures, a plug-in."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.docs.blocks import ROOT, read_blocks
from tests.inference.trained import train


@pytest.fixture(scope="session")
def printed(tmp_path_factory):
    """The folder, made once: `run`, `other` and `first` are one tiny trained detector."""
    place = tmp_path_factory.mktemp("printed")
    trained = train("rd", place / "made", "pictures=4")
    for name in ("run", "other", "first", "outputs/study/0", "ad2/0"):
        shutil.copytree(trained.folder, place / name)
    for name in ("whole", "calibrated"):
        shutil.copy(trained.checkpoint, place / f"run/checkpoints/tested.{name}.ckpt")
        shutil.copy(trained.checkpoint, place / f"first/checkpoints/tested.{name}.ckpt")
    normal, square = (sorted((trained.pictures / name).iterdir()) for name in ("normal", "square"))
    for name, files in (
        ("parts/normal", normal), ("parts", square), ("ok", normal[:4]), ("scratched", square), ("pictures/normal", normal),
        ("pictures/scratch", square), ("pictures/dent", square), ("line2/ok", normal[:4]), ("line2/bad", square),
        ("demo/brick/test/good", normal[:4]), ("demo/brick/test/hole", square), ("demo/brick/test/scratch", square),
    ):  # fmt: skip
        (place / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, place / name)
    for kind in ("scratch", "dent"):
        (place / "pictures/masks" / kind).mkdir(parents=True)
        for file in square:
            mask = np.zeros((70, 90), np.uint8)
            mask[20:40, 30:50] = 255
            Image.fromarray(mask).save(place / "pictures/masks" / kind / file.name)
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
    for folder, name, block in zip(
        ("model", "dataset", "dataset"), ("mine", "parts", "odd"), read_blocks(extending, "yaml"), strict=True
    ):
        (place / "conf" / folder).mkdir(parents=True, exist_ok=True)
        (place / "conf" / folder / f"{name}.yaml").write_text(block)
    return Path(place)


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


@pytest.fixture
def at_printed(printed, monkeypatch):
    """The same folder as the current one, and on Python's path."""
    monkeypatch.chdir(printed)
    monkeypatch.syspath_prepend(str(printed))
    return printed
