"""What a run does, counted: the speed of a noisy machine shows nothing, a second forward, decode, sort or write does.

Of 8 normal and 6 test images of 64 px, 3 of them with masks, over 3 epochs.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL.ImageFile import ImageFile
from torch.utils._python_dispatch import TorchDispatchMode

from kdad.storage import cache
from kdad.teacher import Teacher

EPOCHS, TRAIN, TEST, SIDE = 3, 8, 6, 64
MODELS = {
    "rd": [],
    "stpm": ["val_fraction=0.25", "monitor=val_loss", "optimizer.lr=0.01"],
    "mkd": [],
    "dskd": [],
}
PROBES = {"mkd": [1]}  # whether the teacher's levels are rectified is asked of one image
SORTS = ("sort", "argsort", "lexsort", "unique", "partition", "argpartition")
IO = Path("/proc/self/io")
SLACK = 2**16  # bytes: what is printed, and settings in checkpoints
OVERHEAD = 1000  # bytes of a checkpoint for each tensor
REST = 2**18  # bytes of four pictures, curves, scores, log, results and configuration


class Counts(TorchDispatchMode):
    """`taught`: images through any teacher; `decoded`: how often each file was; `sorted`: the lengths of long sorts."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.taught, self.decoded, self.sorted = [], Counter(), []
        forward, load = Teacher.forward, ImageFile.load

        def counting_forward(teacher, images):
            self.taught.append(len(images))
            return forward(teacher, images)

        def counting_load(image):
            if image.tile:  # else it is decoded already: Pillow asks before each operation
                self.decoded[image.filename] += 1
            return load(image)

        monkeypatch.setattr(Teacher, "forward", counting_forward)
        monkeypatch.setattr(ImageFile, "load", counting_load)
        for name in SORTS:
            monkeypatch.setattr(np, name, self.counting(name, getattr(np, name)))

    def counting(self, name, function):
        def counted(array, *args, **keywords):
            # The keys of lexsort come together, all of the same length.
            self.note(len(array[0]) if name == "lexsort" else np.size(array))
            return function(array, *args, **keywords)

        return counted

    def __torch_dispatch__(self, function, types, args=(), keywords=None):
        if any(word in function.name() for word in ("sort", "unique", "topk", "kthvalue", "median", "quantile")):
            self.note(args[0].numel())
        return function(*args, **(keywords or {}))

    def note(self, length):
        if length > TRAIN + TEST:  # there are no more images: longer ones are of pixels
            self.sorted.append(length)


@pytest.fixture(autouse=True)
def empty_memory():
    cache._MEMORY.clear()
    yield
    cache._MEMORY.clear()


@pytest.fixture(params=MODELS)
def job(request, start, monkeypatch, tiny_mvtec):
    """job(folder) -> (results, folder, counts, bytes written) of a run of one detector; a second finds the cache."""

    def call(folder):
        with monkeypatch.context() as patches:
            counts, before = Counts(patches), written()
            with counts:
                results, place = start(
                    f"model={request.param}", *MODELS[request.param], "backbone.name=test_resnet", f"image_size={SIDE}",
                    f"trainer.max_epochs={EPOCHS}", "+trainer.enable_progress_bar=false", "checkpoint_seconds=1000000",
                    "pictures=4", folder=folder,
                )  # fmt: skip
        return results, place, counts, written() - before

    call.images = {str(path) for place in ("train", "test") for path in (tiny_mvtec / "tile" / place).rglob("*.png")}
    call.masks = {str(path) for path in (tiny_mvtec / "tile/ground_truth").rglob("*.png")}
    return call


def written():
    """Bytes that this process has handed to the system to write, which Linux counts."""
    return int(IO.read_text().split("wchar:")[1].split()[0]) if IO.is_file() else 0


def test_nothing_is_done_twice(job):
    results, folder, counts, bytes_written = job("first")
    tests = results["average_epochs"]  # MKD averages the metrics of its last epochs, each tested

    probe = PROBES.get(results["model"], [])
    assert sum(counts.taught) == TRAIN + TEST + sum(probe)
    assert counts.decoded == Counter(job.images | job.masks)
    # Of each test the normal pixels once, and the few anomalous ones once for all of them, by kind, by size, by image.
    normal = max(counts.sorted)
    anomalous = TEST * SIDE**2 - normal
    assert counts.sorted.count(normal) == tests and 0 < anomalous < normal / 10
    others = [length for length in counts.sorted if length != normal]
    assert max(others) == anomalous and sum(others) <= 6 * anomalous * tests

    # A second job pays for neither images nor teacher.
    _, _, later, _ = job("second")
    assert later.taught == probe and later.decoded == Counter(job.masks)
    assert later.sorted == counts.sorted

    # Every file is written once.
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    best = sizes.get(folder / "checkpoints/best.ckpt", 0)  # but this one anew whenever the validation loss is lower
    assert not IO.is_file() or 0 <= bytes_written - sum(sizes.values()) <= (EPOCHS - 1) * best + SLACK

    # What was trained, once in each checkpoint, and in last.ckpt the optimiser's state of it: Adam's two, or SGD's one.
    checkpoints = [path for path in sizes if path.suffix == ".ckpt"]
    weights = torch.load(folder / "checkpoints/tested.ckpt", weights_only=True)["state_dict"]
    each = sum(tensor.nbytes for tensor in weights.values()) + len(weights) * OVERHEAD
    states = 1 if results["model"] == "stpm" else 2
    assert len(checkpoints) == {"stpm": 3, "mkd": 2 + EPOCHS}.get(results["model"], 2)
    assert sum(map(sizes.get, checkpoints)) <= (len(checkpoints) + states) * each + SLACK
    assert sum(sizes.values()) - sum(map(sizes.get, checkpoints)) <= REST
