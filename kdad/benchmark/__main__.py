"""What a detector costs: `python -m kdad.benchmark model=rd`.

Time per image, FLOPs, parameters, memory and checkpoint size of what `kdad.run` would train, on random images, beside
the figures printed in RD Table 3 and DSKD Table 6. Measured is `forward`: from images (B, 3, H, W) in memory to maps at
image size and scores; reading files is not in it, MKD's backward pass is.

`runtimes` are measured in turn: eager is torch as in a test phase, folded has batch norm in the convolutions before it,
compile is torch.compile of that, onnxruntime and openvino run what `kdad export` writes, int8 with calibrated ranges.
"""

import json
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from kdad.benchmark.counts import count_checkpoint_bytes, count_operations, count_tensor_bytes, measure_peak_bytes
from kdad.benchmark.runtimes import Runtimes, choose_runtimes
from kdad.benchmark.table import load_published_costs, print_costs
from kdad.engine.build import build_detector, describe_versions
from kdad.engine.costs import count_parameters, name_hardware
from kdad.engine.launch import launch
from kdad.geometry import as_pair, simplify
from kdad.settings.checks import check_configuration
from kdad.speed import lay_out, use_machine
from kdad.storage.atomic import atomic_write, refuse_existing

CONFIG = "benchmark"


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


def measure_costs(cfg: DictConfig) -> dict[str, Any]:
    """Build the configured detector and measure it on the CPU, and on the GPU where there is one.

    Returns what benchmark.json holds: sizes in bytes, times in seconds per image as the quartiles over `repeats`.
    Raises `UserError` for a runtime that is unknown or not installed.
    """
    use_machine(cfg.speed)
    check_configuration(cfg, CONFIG)
    names = choose_runtimes(None if cfg.runtimes is None else list(cfg.runtimes))
    detector = build_detector(cfg).eval()
    lay_out(detector)
    generator, threads = torch.Generator().manual_seed(cfg.seed), torch.get_num_threads()
    measured = []
    try:
        torch.set_num_threads(cfg.threads or threads)
        used = torch.get_num_threads()
        for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
            detector.to(device)
            with Runtimes(detector, names, device, generator) as runtimes:
                for batch in sorted({1, cfg.batch_size}):
                    images = torch.rand(batch, 3, *as_pair(cfg.image_size), generator=generator).to(device)
                    laid = images.contiguous(memory_format=torch.channels_last)
                    measured.append({
                        "device": device, "hardware": name_hardware(device), "batch": batch, "repeats": cfg.repeats,
                        "threads": used if device == "cpu" else None,
                        "runtimes": runtimes.measure(images, cfg.repeats),
                        "peak_bytes": count_tensor_bytes(detector) + measure_peak_bytes(detector, laid),
                    })  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    image = torch.rand(1, 3, *as_pair(cfg.image_size), generator=generator)
    flops = count_operations(detector.cpu(), image).flops
    return {
        "model": cfg.model.name,
        "backbone": detector.teacher.tag,
        "weights": detector.teacher.source,
        "levels": " ".join(detector.teacher.paths),
        "image_size": simplify(cfg.image_size),
        "flops_per_image": flops,
        "multiply_adds_per_image": flops // 2,
        **count_parameters(detector),
        "weights_bytes": count_tensor_bytes(detector),
        "checkpoint_bytes": count_checkpoint_bytes(detector),
        "measured": measured,
        "published": load_published_costs(cfg.model.name),
        "versions": describe_versions(),
    }


if __name__ == "__main__":
    main()
