"""What a network costs on this machine: its parameters, and the time of a call."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdad.geometry import as_pair
from kdad.models.base import KDDetector
from kdad.speed import lay_out, use_machine

UNTIMED = 2  # calls before the timed ones of a turn
TURN = 5  # timed calls of one before the next one has its turn


def count_parameters(detector: KDDetector) -> dict[str, int]:
    """Return how many parameters are trained, and how many there are in all, the teacher's too."""
    return {
        "parameters_trained": sum(p.numel() for p in detector.parameters() if p.requires_grad),
        "parameters_total": sum(p.numel() for p in detector.parameters()),
    }


def time_detectors(detectors: Mapping[str, KDDetector], repeats: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Time detectors on the CPU, in turn, on one random image each, of their own size, from memory to map and score.

    Returns the quartiles over `repeats` calls, in seconds, as `find_quartiles` does.
    """
    use_machine("auto")
    generator, calls = torch.Generator().manual_seed(seed), {}
    for name, detector in detectors.items():
        lay_out(detector.eval())
        image = torch.rand(1, 3, *as_pair(detector.image_size), generator=generator)
        calls[name] = partial(detector.detect, {"image": image.contiguous(memory_format=torch.channels_last)})
    return {name: find_quartiles(seconds) for name, seconds in time_in_turn(calls, repeats).items()}


def time_in_turn(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return the wall-clock seconds of `repeats` calls of each; all end on the CPU.

    They take turns after a few calls, so that a busy moment of the machine meets all of them, and not after each: the
    threads of one runtime go on spinning when it is done, and would take time from the next. What comes first in a turn
    is not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():  # as Lightning's test does
        for start in range(0, repeats, TURN):
            for name, call in calls.items():
                for number in range(-UNTIMED, min(TURN, repeats - start)):
                    before = time.perf_counter()
                    call()
                    if number >= 0:
                        times[name].append(time.perf_counter() - before)
    return times


def find_quartiles(seconds: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Return the quartiles of times: low, median and high."""
    low, median, high = np.quantile(np.asarray(seconds), (0.25, 0.5, 0.75)).tolist()
    return {"low": low, "median": median, "high": high}


def name_hardware(device: str) -> str:
    """Return the name of a device, as far as the system tells."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def describe_processor() -> str:
    """Return the processor's name and how many threads torch uses of it."""
    count = torch.get_num_threads()
    return f"{name_hardware('cpu')}, {count} thread{'s' if count > 1 else ''}"
