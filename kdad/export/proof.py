"""Whether an exported file computes what the detector does, and the layer where it does not."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from kdad.errors import UserError
from kdad.export.formats import Format, Run
from kdad.export.graph import Judge, Probe, trace

Arrays = NDArray[Any]
TOLERANCE = 1e-4  # of an output's largest value
ON_THRESHOLD = 1e-6  # of normalised scores
# The gradient of a network with ReLUs jumps where an activation is within rounding of 0, and moves a patch of the map.
JUMP = 0.1  # of the largest value: how far the maps of fewer than half of the images may differ then


def run_detector(judge: Judge, images: Arrays, batch: int = 8) -> list[Arrays]:
    """Return what a detector gives for images (N, 3, H, W), one array an output."""
    with torch.no_grad():
        parts = [judge(torch.from_numpy(images[i : i + batch])) for i in range(0, len(images), batch)]
    return [torch.cat(found).detach().numpy() for found in zip(*parts, strict=True)]


def run_file(run: Run, images: Arrays, batch: int = 8) -> list[Arrays]:
    """Return what a file gives for images (N, 3, H, W), one array an output; in batches of two sizes, if there are two.

    One image is judged alone, lest a graph holds for one number of images only.
    """
    parts = [run(images[:1]), *(run(images[i : i + batch]) for i in range(1, len(images), batch))]
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def compare(expected: list[Arrays], found: list[Arrays], names: tuple[str, ...]) -> dict[str, float]:
    """Return of each output the largest difference, as a share of its largest value; of decisions how many differ."""
    errors = {}
    for name, a, b in zip(names, expected, found, strict=True):
        if a.dtype == bool:
            errors[name] = float((a != b).mean())
        else:
            scale = np.abs(a).max() or 1.0
            errors[name] = float(np.abs(a.astype(np.float64) - b).max() / scale)
    return errors


def is_equal(
    expected: list[Arrays], found: list[Arrays], names: tuple[str, ...], jumps: bool, unit: float = np.inf
) -> bool:
    """Return whether maps and scores are equal but for rounding; decisions then differ on the threshold alone.

    `unit` is that of normalised scores, see `Scale.unit`: where it is small, they magnify what is allowed of scores.
    """
    largest = {name: np.abs(a).max() or 1.0 for name, a in zip(names, expected, strict=True)}
    for name, a, b in zip(names, expected, found, strict=True):
        if a.dtype == bool:
            continue
        allowed = TOLERANCE * largest[name]
        differences = np.abs(a.astype(np.float64) - b).reshape(len(a), -1).max(axis=1)  # of each image
        if name == "anomaly_map" and jumps:
            if not differences.max() <= JUMP * largest[name]:
                return False
            differences = np.sort(differences)[: len(differences) // 2 + 1]
        if name == "normalised":  # whose slope is at most 1 / (2 unit)
            allowed = max(allowed, TOLERANCE * largest["score"] / (2 * unit))
        if not differences.max() <= allowed:
            return False
    return True


def measure_agreement(expected: list[Arrays], found: list[Arrays], names: tuple[str, ...]) -> dict[str, float]:
    """Return how far a file of lower precision agrees: errors, rank correlation of scores, share of equal decisions."""
    told = {f"{name}_error": value for name, value in compare(expected, found, names).items() if name != "is_anomalous"}
    score = names.index("score")
    if len(expected[score]) > 2:
        told["score_rank_correlation"] = float(spearmanr(expected[score], found[score]).statistic)
    if "is_anomalous" in names:
        decision, normalised = names.index("is_anomalous"), names.index("normalised")
        # The threshold is one of these images' score, which falls on either side of itself.
        on_threshold = np.abs(expected[normalised] - 0.5) < ON_THRESHOLD
        told["equal_decisions"] = float((on_threshold | (expected[decision] == found[decision])).mean())
    return told


def find_different_layer(judge: Judge, format: Format, precision: str, images: Arrays) -> str:
    """Return the first layer, in the order of their running, whose output in a file of this format is another one."""
    probe, few = Probe(judge), torch.from_numpy(images[:2])
    with torch.no_grad():
        expected = [output.detach().numpy() for output in probe(few)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"probe{format.suffix}"
        names = [f"output_{number}" for number in range(len(expected))]  # a layer's own name may be taken
        format.write(trace(probe, few), path, names, precision, images)
        found = format.open(path)(images[:2])
    for name, a, b in zip(probe.names, expected, found, strict=True):
        if a.dtype != bool and not np.abs(a.astype(np.float64) - b).max() <= TOLERANCE * (np.abs(a).max() or 1.0):
            return name
    return "none of its layers by itself: what is made of them"


def refuse_difference(
    judge: Judge, format: Format, precision: str, images: Arrays, errors: dict[str, float]
) -> UserError:
    """Return the error of a file that does not compute what the detector does."""
    told = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
    return UserError(
        f"the exported file does not compute what the detector does, and is not kept. Largest differences, as shares "
        f"of the largest values, of which {TOLERANCE:g} is allowed: {told}. The first layer that differs: "
        f"{find_different_layer(judge, format, precision, images)}"
    )


def as_tensor(images: Arrays) -> Tensor:
    """Return images as a tensor that a graph can be traced with: two of them, since one would count as a constant."""
    return torch.from_numpy(np.concatenate([images, images])[:2] if len(images) < 2 else images[:2])
