"""Tiny, faithful copies of the layouts of one-class and medical data sets."""

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import datasets


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def write_mnist(root: Path, folder: str = "MNIST/raw") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """60 + 20 digits of 28 px, classes in turn; returns {part: (images, classes)}."""
    (root / folder).mkdir(parents=True)
    parts = {}
    for part, name, n in (("train", "train", 60), ("test", "t10k", 20)):
        images, classes = pixels(n, n, 28, 28), (np.arange(n) % 10).astype(np.uint8)
        head = struct.pack(">iiii", 0x803, n, 28, 28)
        (root / folder / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        (root / folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, n) + classes.tobytes())
        parts[part] = images, classes
    return parts


def write_fashion_mnist(root: Path) -> None:
    write_mnist(root, "FashionMNIST/raw")


def write_cifar10(root: Path, monkeypatch) -> None:
    """50 + 20 images; torchvision is told the checksums of these files in place of the published ones."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    checksums = {}

    def dump(name: str, content: dict) -> None:
        (folder / name).write_bytes(pickle.dumps(content))
        checksums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()

    for seed, name in enumerate(("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")):
        dump(name, {"data": pixels(seed, 10, 3072), "labels": list(range(10))})
    dump("test_batch", {"data": pixels(9, 20, 3072), "labels": list(range(10)) * 2})
    dump("batches.meta", {"label_names": ["airplane"]})
    known = [[name, checksum] for name, checksum in checksums.items()]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", known[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", known[5:6])
    monkeypatch.setattr(datasets.CIFAR10, "meta", dict(datasets.CIFAR10.meta, md5=checksums["batches.meta"]))


def write_caltech256(root: Path, around: str = "", n: int = 10, n_clutter: int = 8) -> None:
    """Four categories of n images each, and clutter."""
    folder = root / around / "256_ObjectCategories"
    names = ("001.ak47", "002.american-flag", "003.backpack", "004.baseball-bat")
    counts = dict.fromkeys(names, n) | {"257.clutter": n_clutter}
    for k, (name, count) in enumerate(counts.items(), 1):
        for i in range(1, count + 1):
            save(folder / name / f"{name[:3]}_{i:04d}.jpg", pixels(100 * k + i, 40, 60, 3))
    (folder / "002.american-flag" / "RENAME2").write_text("the real set has such files too")


def write_head_ct(root: Path, around: str = "", n: int = 16) -> None:
    """The first half with hemorrhage."""
    for i in range(n):
        save(root / "head_ct" / around / f"{i:03d}.png", pixels(i, 30, 20))
    rows = [f"{i},{int(i < n // 2)}" for i in range(n)]
    (root / "labels.csv").write_text("\n".join(["id, hemorrhage", *rows, ""]))


def write_brain_mri(root: Path) -> None:
    for i in range(1, 15):
        save(root / "no" / f"{i} no.jpg", pixels(i, 30 + i, 20))
    for i in range(1, 6):
        save(root / "yes" / f"Y{i}.{'JPG' if i % 2 else 'png'}", pixels(20 + i, 30, 20 + i, 3))


def write_retinal_oct(root: Path, around: str = "") -> None:
    for seed, (part, n) in enumerate({"train": 6, "val": 1, "test": 3}.items()):
        for k, kind in enumerate(("NORMAL", "CNV", "DME", "DRUSEN")):
            for i in range(n):
                save(
                    root / around / part / kind / f"{kind}-{100 + i}-{i}.jpeg", pixels(100 * seed + 10 * k + i, 20, 30)
                )


def write_elpv(root: Path) -> None:
    """20 normal, 4 anomalous and 2 uncertain mono cells, then as many poly ones."""
    lines, probabilities = [], [0.0] * 20 + [1.0] * 4 + [0.3333333333333333, 0.6666666666666666]
    for i, (kind, probability) in enumerate([(k, p) for k in ("mono", "poly") for p in probabilities], 1):
        save(root / "images" / f"cell{i:04d}.png", pixels(i, 30, 30))
        lines.append(f"images/cell{i:04d}.png  {probability}    {kind}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


# data set -> (writer, category for a run)
WRITERS = {
    "mnist": (write_mnist, "8"),
    "fashion_mnist": (write_fashion_mnist, "sandal"),
    "cifar10": (write_cifar10, "ship"),
    "caltech256": (write_caltech256, "all"),
    "head_ct": (write_head_ct, "null"),
    "brain_mri": (write_brain_mri, "null"),
    "retinal_oct": (write_retinal_oct, "null"),
    "elpv": (write_elpv, "mono"),
}
