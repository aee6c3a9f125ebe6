"""What goes with an exported file: what it takes and gives, its thresholds, and where it comes from."""

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import kdad
from kdad.data.intensity import Rule, restore_rule
from kdad.export.graph import INPUT, MOST
from kdad.geometry import Tiling, as_pair
from kdad.inference.decision import Decision
from kdad.models.base import KDDetector
from kdad.teacher.levels import read_pretrained_cfg
from kdad.teacher.weights import PACKAGE

SHAPES = {
    "anomaly_map": "float32 (batch, 1, {height}, {width}), higher is more anomalous",
    "score": "float32 (batch), higher is more anomalous",
    "normalised": "float32 (batch), in (0, 1), 0.5 at the threshold; comparable between detectors",
    "is_anomalous": "bool (batch), whether the score exceeds the threshold",
}


def describe_file(
    network: KDDetector,
    decision: Decision | None,
    names: tuple[str, ...],
    format: str,
    precision: str,
    tiling: Tiling | None = None,
) -> dict[str, Any]:
    """Return plain values that say all that is needed to use an exported file without kdad."""
    (height, width), mean, std = as_pair(network.image_size), network.normalise.mean, network.normalise.std
    return {
        "made_by": f"kdad {kdad.__version__}",
        "detector": network.name,
        "format": format,
        "precision": precision,
        "input": {
            "name": INPUT,
            "size": [height, width],
            "shape": f"float32 (batch, 3, {height}, {width}), batch from 1 to {MOST}",
            "values": describe_values(restore_rule(network.provenance.get("rule"))),
            "resize": f"to {width} x {height} (width x height) by Pillow's BILINEAR, which is antialiased; no crop",
            **({"tiles": describe_tiles(tiling)} if tiling else {}),
            "normalisation": "inside the file",
            "mean": mean.flatten().tolist(),
            "std": std.flatten().tolist(),
        },
        "outputs": {name: SHAPES[name].format(height=height, width=width) for name in names},
        "decision": describe_decision(decision),
        "teacher": {
            "backbone": network.teacher.tag,
            "levels": list(network.teacher.paths),
            "fingerprint": network.teacher.fingerprint,
            "weights": network.teacher.source,
            "licence": find_licence(network.teacher.name, network.teacher.source),
        },
    }


def describe_tiles(tiling: Tiling) -> str:
    """Return how a picture becomes what a file of a detector of tiles takes, and how it is judged by their results."""
    (tall, wide), (down, right) = tiling
    return (
        f"each image is a tile: cut the picture at its own size into tiles of {wide} x {tall} (width x height), spread "
        f"evenly from edge to edge so that neighbours share at least {right} and {down} pixels, and resize each. The "
        "picture's score is the largest of its tiles, and it is anomalous if one of them is"
    )


def describe_values(rule: Rule) -> str:
    """Return how a picture's values become those that a file takes."""
    page = f"page {rule.page} of a file, from 0; " if rule.page else ""
    if not rule.window:
        return f"{page}RGB in [0, 1]: an 8-bit image divided by 255"
    low, high = rule.window
    return (
        f"{page}RGB in [0, 1]: values as stored, mapped to 8 bits by 255 (v - {low!r}) / ({high!r} - {low!r}), clipped "
        "and rounded, then divided by 255; grey in all three channels"
    )


def describe_decision(decision: Decision | None) -> dict[str, Any] | None:
    """Return thresholds, rule and what it promises; None where there is no decision."""
    if decision is None:
        return None
    return {
        "image_threshold": decision.image_threshold,
        "pixel_threshold": decision.pixel_threshold,
        "rule": decision.rule,
        "n_images": decision.n_images,
        "source": decision.source,
        "expected_false_alarms": decision.promise(),
        "description": decision.describe(),
    }


def find_licence(name: str, source: str) -> str:
    """Return the licence of a teacher's weights, as far as timm or the package that carries them states it."""
    if source.startswith(PACKAGE):
        package = source.removeprefix(PACKAGE).partition("/")[0]
        try:
            return read_licence(distribution(package))
        except PackageNotFoundError:
            return "unknown"
    if source == "random":
        return "none: random weights"
    return getattr(read_pretrained_cfg(name), "license", None) or "unknown"


def read_licence(package: Distribution) -> str:
    """Return the licence that an installed package states: in its metadata, or as the title of its licence's file."""
    found = package.metadata
    stated = [found[key] for key in ("License-Expression", "License")]
    stated += [
        name.rpartition(" :: ")[2] for name in found.get_all("Classifier") or () if name.startswith("License ::")
    ]
    if known := [licence for licence in stated if licence and licence != "UNKNOWN"]:  # setuptools' word
        return known[0].splitlines()[0]
    for file in package.files or ():
        place = Path(str(file.locate()))
        if place.stem.upper() in ("LICENSE", "LICENCE", "COPYING") and place.is_file():
            lines = [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
            return " ".join(line for line in lines[:2] if line is lines[0] or line.startswith("Version"))
    return "unknown"
