"""What a detector costs: `python -m kdad.benchmark model=rd`.

Time per image, FLOPs, parameters, memory and checkpoint size of what `kdad.run` would train, on random images, beside
the figures printed in RD Table 3 and DSKD Table 6. Measured is `forward`: from images (B, 3, H, W) in memory to maps at
image size and scores; reading files is not in it, MKD's backward pass is.
"""

import io
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from kdad import published
from kdad.engine.build import build_detector, describe_versions
from kdad.engine.launch import launch
from kdad.models.base import KDDetector
from kdad.settings.checks import check_configuration
from kdad.speed import use_machine
from kdad.storage.atomic import atomic_write, refuse_existing

CONFIG = "benchmark"
UNTIMED = 2  # calls before the timed ones
PRINTED = (("rd", 3), ("dskd", 6))  # the papers' tables of costs
NOTE = (
    "The papers measured on an Intel i7, at an image size that they do not state, and do not say what their memory is "
    "of.\nDSKD's FLOPs are read as multiply-adds: so counted, MKD's teacher and cloner at 256 px take 20.95 without "
    "the backward pass, and it prints 20.96."
)

# The command ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Run `kdad benchmark`, which is `python -m kdad.benchmark`."""
    launch(run_benchmark, CONFIG)


def run_benchmark(cfg: DictConfig) -> None:
    """Measure a detector's costs, write benchmark.json and print a table: one job of a command line or sweep."""
    path = Path(HydraConfig.get().runtime.output_dir) / "benchmark.json"
    refuse_existing(path, cfg.overwrite)
    costs = measure_costs(cfg)
    with atomic_write(path) as file:
        json.dump(costs, file, indent=2)
    print_costs(costs)
    Console().print(f"Written to {path}", soft_wrap=True)


# Measuring ------------------------------------------------------------------------------------------------------


def measure_costs(cfg: DictConfig) -> dict[str, Any]:
    """Build the configured detector and measure it on the CPU, and on the GPU where there is one.

    Returns what benchmark.json holds: sizes in bytes, times in seconds per image as the quartiles over `repeats`.
    """
    use_machine(cfg.speed)
    check_configuration(cfg, CONFIG)
    detector = build_detector(cfg).eval()
    generator, threads = torch.Generator().manual_seed(cfg.seed), torch.get_num_threads()
    measured = []
    try:
        torch.set_num_threads(cfg.threads or threads)
        used = torch.get_num_threads()
        for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
            detector.to(device)
            for batch in sorted({1, cfg.batch_size}):
                images = torch.rand(batch, 3, cfg.image_size, cfg.image_size, generator=generator)
                images = images.to(device).contiguous(memory_format=torch.channels_last)
                times = np.array(time_calls(partial(detector, images), cfg.repeats, device)) / batch
                quartiles = zip(("low", "median", "high"), np.quantile(times, (0.25, 0.5, 0.75)).tolist(), strict=True)
                measured.append({
                    "device": device, "hardware": name_hardware(device), "batch": batch, "repeats": cfg.repeats,
                    "threads": used if device == "cpu" else None,
                    "seconds_per_image": dict(quartiles),
                    "peak_bytes": count_tensor_bytes(detector) + measure_peak_bytes(detector, images),
                })  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    image = torch.rand(1, 3, cfg.image_size, cfg.image_size, generator=generator)
    flops = count_operations(detector.cpu(), image).flops
    return {
        "model": cfg.model.name,
        "backbone": detector.teacher.tag,
        "weights": detector.teacher.source,
        "levels": " ".join(detector.teacher.paths),
        "image_size": cfg.image_size,
        "flops_per_image": flops,
        "multiply_adds_per_image": flops // 2,
        "parameters_trained": sum(p.numel() for p in detector.parameters() if p.requires_grad),
        "parameters_total": sum(p.numel() for p in detector.parameters()),
        "weights_bytes": count_tensor_bytes(detector),
        "checkpoint_bytes": count_checkpoint_bytes(detector),
        "measured": measured,
        "published": load_published_costs(cfg.model.name),
        "versions": describe_versions(),
    }


def time_calls(call: Callable[[], Any], repeats: int, device: str) -> list[float]:
    """Return the wall-clock seconds of each of `repeats` calls, the device's queue emptied before and after."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    with torch.inference_mode():  # as Lightning's test does
        for _ in range(UNTIMED + repeats):
            wait()
            start = time.perf_counter()
            call()
            wait()
            times.append(time.perf_counter() - start)
    return times[UNTIMED:]


def measure_peak_bytes(detector: nn.Module, images: Tensor) -> int:
    """Return the bytes that one forward pass takes beyond weights and images; on a GPU, as its allocator counts."""
    if images.device.type == "cpu":
        return count_operations(detector, images).peak_bytes
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.inference_mode():
        detector(images)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def name_hardware(device: str) -> str:
    """Return the name of a device, as far as the system tells."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


# Counting -------------------------------------------------------------------------------------------------------


class Count(TorchDispatchMode):
    """A counter of what runs while it is active.

    `flops` is of all operations: two per multiply-add, by torch's own formulas, which know convolutions, matrix
    products and attention, forward and backward; element-wise operations, pooling and resizing count nothing.
    `peak_bytes` is the largest sum of tensors alive at once, of those made meanwhile, without what a kernel needs
    within itself. Use under `torch.no_grad()`: inference mode hides what operations are made of. (torch's
    `FlopCounterMode` has the same formulas, but stops at a gradient by the input, which MKD takes.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.peak_bytes = 0, 0
        self._alive = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.overloadpacket in flop_registry:
            self.flops += int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out))
        given = list_storages((args, kwargs))
        for storage in list_storages(out):
            if not any(storage is other for other in given):  # a view of a weight is no new memory
                self._alive[storage] = True
        self.peak_bytes = max(self.peak_bytes, sum(storage.nbytes() for storage in self._alive))
        return out


def count_operations(detector: nn.Module, images: Tensor) -> Count:
    """Return the counts of one forward pass."""
    with torch.no_grad(), Count() as counted:
        detector(images)
    return counted


def list_storages(values: Any) -> list[torch.UntypedStorage]:
    """Return the storages of all tensors in nested containers."""
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def count_tensor_bytes(module: nn.Module) -> int:
    """Return the size of a module's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])


def count_checkpoint_bytes(detector: KDDetector) -> int:
    """Return the size of the weights in a run's tested.ckpt: those trained, since the teacher is not stored."""
    checkpoint = {"state_dict": detector.state_dict()}
    detector.on_save_checkpoint(checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.tell()


# Showing --------------------------------------------------------------------------------------------------------


def load_published_costs(model: str) -> list[dict[str, str]]:
    """Return the costs that the papers print for a method.

    Each has metric, value, unit and source, which says so where the paper quotes it.
    """
    rows = []
    for paper, table in PRINTED:
        cells = published.load_table(paper, table)
        costs = cells[cells["metric"].isin(published.UNITS) & (cells["method"] == model.upper())]
        for cell in costs.to_dict("records"):
            where = f"{paper.upper()} Table {table}" + ("" if cell["own"] else ", quoted")
            rows.append({"metric": cell["metric"], "value": cell["value"], "unit": cell["unit"], "source": where})
    return rows


def print_costs(costs: dict[str, Any]) -> None:
    """Print the costs as a table, measured beside published."""
    table = Table(title=f"{costs['model']}, {costs['backbone']} ({costs['weights']}), {costs['image_size']} px")
    table.add_column("", justify="left")
    table.add_column("here", justify="right")
    table.add_column("published", justify="left")
    beside = dict.fromkeys(published.UNITS, "")
    for row in costs["published"]:  # no method has a cost in both papers
        beside[row["metric"]] = f"{row['value']} {row['unit']} ({row['source']})"
    for entry in costs["measured"]:
        threads = f", threads: {entry['threads']}" if entry["threads"] else ""
        low, median, high = (f"{entry['seconds_per_image'][k]:.4g}" for k in ("low", "median", "high"))
        table.add_row(
            f"s per image, {entry['device']}, batch {entry['batch']}{threads}", f"{median} ({low} to {high})",
            beside["seconds"] if entry is costs["measured"][0] else "",
        )  # fmt: skip
    for entry in costs["measured"]:
        table.add_row(f"peak MB, {entry['device']}, batch {entry['batch']}", f"{entry['peak_bytes'] / 1e6:.1f}")
    table.add_row("weights MB, teacher's too", f"{costs['weights_bytes'] / 1e6:.1f}", beside["megabytes"])
    table.add_row("checkpoint MB", f"{costs['checkpoint_bytes'] / 1e6:.1f}")
    table.add_row("10^9 FLOPs per image", f"{costs['flops_per_image'] / 1e9:.3f}")
    table.add_row("10^9 multiply-adds per image", f"{costs['multiply_adds_per_image'] / 1e9:.3f}", beside["gigaflops"])
    table.add_row("million parameters, trained", f"{costs['parameters_trained'] / 1e6:.2f}")
    table.add_row("million parameters, in all", f"{costs['parameters_total'] / 1e6:.2f}", beside["million_parameters"])
    console = Console()
    console.print(table)
    where = ", ".join(dict.fromkeys(entry["hardware"] for entry in costs["measured"]))
    console.print(
        f"Quartiles of {costs['measured'][0]['repeats']} calls on {where}, from images in memory to maps. "
        "1 MB is 10^6 bytes.",
        soft_wrap=True,
    )
    if costs["published"]:
        console.print(NOTE, soft_wrap=True)


if __name__ == "__main__":
    main()
