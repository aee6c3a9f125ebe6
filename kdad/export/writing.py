"""The work of `kdad export`: a file made, proven on normal images, and only then kept."""

import json
import math
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, ListConfig
from rich.console import Console

from kdad.engine.checkpoint import Checkpoint
from kdad.errors import UserError
from kdad.export.card import describe_file
from kdad.export.formats import FORMATS, Format
from kdad.export.graph import Judge, trace
from kdad.export.proof import (
    TOLERANCE,
    as_tensor,
    compare,
    is_equal,
    measure_agreement,
    refuse_difference,
    run_detector,
    run_file,
)
from kdad.inference.detector import Detector, load
from kdad.inference.files import OWN, read_checkpoint, write_checkpoint
from kdad.inference.fold import fold_batch_norms
from kdad.inference.inputs import Inputs
from kdad.inference.trained import build_trained
from kdad.storage.atomic import atomic_write, refuse_existing
from kdad.storage.tensors import hash_file

PRECISIONS = ("fp32", "fp16", "int8")


def export_checkpoint(cfg: DictConfig, path: Path) -> None:
    """Write a copy of a checkpoint with the teacher's weights in it."""
    output = Path(cfg.output).expanduser() if cfg.output else path.with_name(f"{path.stem}.whole{path.suffix}")
    detector, _, _ = build_trained(path, cfg.backbone.weights, list(cfg.plugins))
    content = read_checkpoint(path) | {OWN: detector.teacher.body.state_dict()}
    write_checkpoint(content, output, cfg.overwrite)
    size = output.stat().st_size / 1e6
    Console().print(
        f"Written: {output}, {size:.1f} MB, with the teacher {detector.teacher.tag}", soft_wrap=True, markup=False
    )


def export_graph(cfg: DictConfig, path: Path, format: Format) -> None:
    """Write a file for a runtime, and its card, once it is shown to compute what the detector does."""
    if cfg.precision not in PRECISIONS or cfg.precision not in format.precisions:
        raise UserError(f"precision={cfg.precision}: format={cfg.format} has {', '.join(format.precisions)}")
    if missing := [name for name in format.needs if find_spec(name) is None]:
        raise UserError(f"format={cfg.format} needs {', '.join(missing)}: pip install 'kdad[export]'")
    suffix = format.suffix if cfg.precision == "fp32" else f".{cfg.precision}{format.suffix}"
    output = Path(cfg.output).expanduser() if cfg.output else path.with_name(path.stem + suffix)
    if output.suffix != format.suffix:
        raise UserError(f"output={output}: a file of format={cfg.format} is called <name>{format.suffix}")
    card_file = output.with_name(output.name + ".json")
    for file in [*list_files(output, format), card_file]:
        refuse_existing(file, cfg.overwrite, "output=<file>")
    if read_checkpoint(path)["kdad"].get("roi"):
        raise UserError(
            "dataset.roi: an exported file cannot apply a region of interest. kdad predict and kdad app can"
        )
    detector = load(path, "cpu", cfg.backbone.weights, list(cfg.plugins))
    if detector.precision != "32-true":
        raise UserError(
            f"the detector was trained with trainer.precision={detector.precision}: only 32-true is exported"
        )
    images, where = read_images(cfg, path, detector)
    exact = Judge(detector.network, detector.decision)
    expected = run_detector(exact, images)
    fold_batch_norms(detector.network, as_tensor(images))
    lower = cfg.precision == "fp16" and cfg.format == "torch"
    judge = Judge(detector.network.half() if lower else detector.network, detector.decision, half=lower)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / output.name
        graph = trace(judge, as_tensor(images))
        try:
            format.write(graph, made, exact.names, cfg.precision, images)
            found = run_file(format.open(made), images)
        except Exception as error:  # whatever a runtime makes of an operation that it does not know
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"format={cfg.format} precision={cfg.precision}: {detector.network.name} does not run so: {reason}"
            ) from error
        errors = compare(expected, found, exact.names)
        card = describe_file(
            detector.network, detector.decision, exact.names, cfg.format, cfg.precision, detector.geometry.tiling
        )
        card["proof"] = {"images": len(images), "from": where, "errors": errors}
        if cfg.precision == "fp32":
            card["proof"]["tolerance"] = TOLERANCE
            unit = detector.decision.image.unit if detector.decision else math.inf
            if not is_equal(expected, found, exact.names, detector.network.differentiates, unit):
                raise refuse_difference(judge, format, cfg.precision, images, errors)
        else:
            card["proof"]["agreement"] = agreement = measure_agreement(expected, found, exact.names)
            if agreement.get("equal_decisions", 1.0) < cfg.min_agreement:
                raise UserError(
                    f"precision={cfg.precision}: {agreement['equal_decisions']:.3f} of {len(images)} decisions are the "
                    f"detector's, less than min_agreement={cfg.min_agreement}; the file is not kept"
                )
        card["sha256"] = {file.name: hash_file(file) for file in list_files(made, format)}
        output.parent.mkdir(parents=True, exist_ok=True)
        for file in (card_file, *list_files(output, format)):  # a kill must not leave new files beside an old card
            file.unlink(missing_ok=True)
        for file in reversed(list_files(made, format)):  # what is named last is there only if the rest is
            with atomic_write(output.with_name(file.name), "wb") as stream:
                stream.write(file.read_bytes())
    with atomic_write(card_file) as stream:
        json.dump(card, stream, indent=2)
    show(output, card)


def list_files(output: Path, format: Format) -> list[Path]:
    """Return the files that an export consists of: OpenVINO keeps weights in a second one."""
    return [output, output.with_suffix(".bin")] if format.suffix == ".xml" else [output]


def read_images(cfg: DictConfig, path: Path, detector: Detector) -> tuple[np.ndarray, str]:
    """Return normal images to prove a file on, float32 (N, 3, H, W) in [0, 1], and where they are from.

    Raises `UserError` where there are none, or one cannot be read.
    """
    if cfg.normal is not None:
        names = list(cfg.normal) if isinstance(cfg.normal, ListConfig) else [cfg.normal]
        files, where = (
            [item.path for item in Inputs(names, Path("/nonexistent"), key="normal").list_files()],
            ", ".join(map(str, names)),
        )
    else:
        checkpoint = Checkpoint.load(path)
        parts, root = checkpoint.parts, Path(checkpoint.config.get("dataset", {}).get("root", ""))
        listed = [name for part in ("calibration", "validation", "train") for name in parts.get(part, [])]
        files, where = (
            [file for name in listed if (file := root / name).is_file()],
            f"those it was trained with, {root}",
        )
    if not files:
        raise UserError(
            "normal=<folder> is needed: normal pictures to prove the file on, since those of the training are not "
            "where they were, or are no files of their own"
        )
    rows = np.unique(np.linspace(0, len(files) - 1, min(cfg.images, len(files))).round().astype(int))
    pictures = [detector.open_picture(files[row]) for row in rows]
    if detector.geometry.tiling:
        prepared = torch.cat([detector.cut(picture).images for picture in pictures])
        prepared = prepared[:: -(-len(prepared) // cfg.images)]
    else:
        prepared = torch.stack([detector.prepare(picture) for picture in pictures])
    return prepared.float().div_(255).numpy(), where


def show(output: Path, card: dict[str, Any]) -> None:
    """Print what was written, and how it was proven."""
    console, proof = Console(), card["proof"]
    size = sum(file.stat().st_size for file in list_files(output, FORMATS[card["format"]])) / 1e6
    console.print(f"Written: {output}, {size:.1f} MB, and its card {output}.json", soft_wrap=True, markup=False)
    told = ", ".join(f"{name} {value:.2g}" for name, value in proof["errors"].items())
    console.print(
        f"On {proof['images']} normal images ({proof['from']}) it differs by: {told}", soft_wrap=True, markup=False
    )
    if "agreement" in proof and "equal_decisions" in proof["agreement"]:
        console.print(f"Equal decisions: {proof['agreement']['equal_decisions']:.3f}")
    if card["decision"] is None:
        console.print("The checkpoint has no thresholds, so that the file gives map and score alone: kdad calibrate")
