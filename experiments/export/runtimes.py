"""Time kdad's networks in several runtimes, beside anomalib's of the same kind: `python experiments/export/runtimes.py`.

kdad: eager, folded, torch.compile, and what it exports (onnxruntime, OpenVINO, each in fp32 and int8). anomalib: what its
own `to_onnx` writes of its RD and STPM with the same backbone, in the same two runtimes with the same threads, and its
eager model. Images and weights are random: time does not depend on them. All are timed in turn; medians in milliseconds.
"""

import argparse
import statistics
import tempfile
import warnings
from functools import partial
from pathlib import Path
from unittest.mock import patch

import timm
import torch
from anomalib.models import ReverseDistillation, Stfpm
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Normalize, Resize

from kdad.benchmark.runtimes import EXPORTED, RUNTIMES, Runtimes
from kdad.engine.costs import name_hardware, time_in_turn
from kdad.export.formats import open_onnx, open_openvino
from kdad.models.rd import RD
from kdad.models.stpm import STPM
from kdad.speed import lay_out, limit_threads
from kdad.teacher import Teacher

OURS, THEIRS = {"rd": RD, "stpm": STPM}, {"rd": ReverseDistillation, "stpm": Stfpm}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=OURS, default=["rd", "stpm"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--repeats", type=int, default=11)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    limit_threads()
    print(f"{name_hardware('cpu')}, {torch.get_num_threads()} threads, torch {torch.__version__}, {given.backbone}")
    names = [*RUNTIMES, "anomalib eager", "anomalib onnxruntime", "anomalib openvino"]
    print(f"| detector | px | batch | {' | '.join(names)} |\n|" + "---|" * (3 + len(names)))
    for model in given.models:
        for size in given.sizes:
            measure(model, size, given, names)


def measure(model: str, size: int, given: argparse.Namespace, names: list[str]) -> None:
    """Print the lines of the table for one network and size."""
    torch.manual_seed(0)
    teacher = partial(Teacher, name=given.backbone, pretrained=False)
    network = OURS[model](backbone=teacher, optimizer=None, image_size=size).eval()
    lay_out(network)
    generator = torch.Generator().manual_seed(0)
    with Runtimes(network, list(RUNTIMES), "cpu", generator) as ours, tempfile.TemporaryDirectory() as folder:
        theirs = build_theirs(model, given.backbone, size)
        path = theirs.to_onnx(Path(folder), input_size=(size, size))
        onnx, openvino = open_onnx(path, "input"), open_openvino(path)
        for batch in given.batches:
            images = torch.rand(batch, 3, size, size, generator=generator)
            laid = images.contiguous(memory_format=torch.channels_last)
            calls = {name: partial(call, images if name in EXPORTED else laid) for name, call in ours.calls.items()}
            calls["anomalib eager"] = partial(theirs, images)
            calls["anomalib onnxruntime"] = partial(onnx, images.numpy())
            calls["anomalib openvino"] = partial(openvino, images.numpy())
            times = time_in_turn(calls, given.repeats)
            cells = [f"{1000 * statistics.median(times[name]):.1f}" if name in times else "none" for name in names]
            print(f"| {model} | {size} | {batch} | {' | '.join(cells)} |", flush=True)


def build_theirs(model: str, backbone: str, size: int) -> torch.nn.Module:
    """Return anomalib's detector with random weights, which no hub is asked for; it resizes and normalises as ours does."""
    create = timm.create_model
    with patch("timm.create_model", lambda *args, **keywords: create(*args, **keywords | {"pretrained": False})):
        steps = Compose([Resize((size, size), antialias=True), Normalize(*IMAGENET)])
        built = THEIRS[model](
            backbone=backbone, pre_processor=PreProcessor(steps), post_processor=False, visualizer=False,
            evaluator=False,
        )  # fmt: skip
    return built.eval()


if __name__ == "__main__":
    main()
