"""The work of `kdad benchmark`: a detector built and measured."""

from typing import Any

import torch
from omegaconf import DictConfig

from kdad.benchmark.counts import count_checkpoint_bytes, count_operations, count_tensor_bytes, measure_peak_bytes
from kdad.benchmark.runtimes import Runtimes, choose_runtimes
from kdad.benchmark.table import load_published_costs
from kdad.engine.build import build_detector, describe_versions
from kdad.engine.costs import count_parameters, name_hardware
from kdad.geometry import as_pair, simplify
from kdad.settings.checks import check_configuration
from kdad.speed import lay_out, use_machine


def measure_costs(cfg: DictConfig) -> dict[str, Any]:
    """Build the configured detector and measure it on the CPU, and on the GPU where there is one.

    Returns what benchmark.json holds: sizes in bytes, times in seconds per image as the quartiles over `repeats`.
    Raises `UserError` for a runtime that is unknown or not installed.
    """
    use_machine(cfg.speed)
    check_configuration(cfg, "benchmark")
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
