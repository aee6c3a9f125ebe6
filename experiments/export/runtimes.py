"""Time one network in several runtimes, in turn: `python experiments/export/runtimes.py --models rd stpm --sizes 128`.

Eager, eager with folded batch norm, onnxruntime and OpenVINO (fp32) judge the same random images; weights are random, too,
since time does not depend on them. Prints medians in milliseconds and what each runtime's outputs differ by.
"""

import argparse
import platform
import statistics
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import torch

from kdad.export.formats import FORMATS
from kdad.export.graph import Judge, trace
from kdad.export.proof import compare
from kdad.inference.fold import fold_batch_norms
from kdad.models.dskd import DSKD
from kdad.models.rd import RD
from kdad.models.stpm import STPM
from kdad.speed import lay_out, limit_threads
from kdad.teacher import Teacher

MODELS = {"rd": RD, "stpm": STPM, "dskd": DSKD}


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["rd", "stpm"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--repeats", type=int, default=11)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    limit_threads()
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    print(
        f"{cpu or platform.processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {given.backbone}"
    )
    print("| detector | px | batch | eager | folded | onnxruntime | OpenVINO | largest difference |\n|" + "---|" * 8)
    for model in given.models:
        for size in given.sizes:
            for batch in given.batches:
                print(measure(model, size, batch, given.backbone, given.repeats), flush=True)


def measure(model: str, size: int, batch: int, backbone: str, repeats: int) -> str:
    """Return the line of the table for one network and batch."""
    torch.manual_seed(0)

    def build() -> Judge:
        torch.manual_seed(0)
        network = MODELS[model](
            backbone=partial(Teacher, name=backbone, pretrained=False), optimizer=None, image_size=size
        ).eval()
        lay_out(network)
        return Judge(network, None)

    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    two, plain = torch.rand(2, 3, size, size), images.contiguous().numpy()
    eager, folded = build(), build()
    fold_batch_norms(folded.network, two)
    graph = trace(folded, two)
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for name in ("onnx", "openvino"):
            path = Path(folder) / f"graph{FORMATS[name].suffix}"
            FORMATS[name].write(graph, path, eager.names, "fp32", plain)
            runs[name] = FORMATS[name].open(path)
        calls = {
            "eager": lambda: [part.numpy() for part in eager(images)],
            "folded": lambda: [part.numpy() for part in folded(images)],
            "onnx": lambda: runs["onnx"](plain),
            "openvino": lambda: runs["openvino"](plain),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        with torch.inference_mode():
            found = {name: call() for name, call in calls.items()}
            for _ in range(repeats):
                for name, call in calls.items():
                    start = time.perf_counter()
                    call()
                    times[name].append(1000 * (time.perf_counter() - start))
    worst = max(max(compare(found["eager"], found[name], eager.names).values()) for name in calls)
    medians = [f"{statistics.median(times[name]):.1f}" for name in calls]
    return f"| {model} | {size} | {batch} | {' | '.join(medians)} | {worst:.1e} |"


if __name__ == "__main__":
    main()
