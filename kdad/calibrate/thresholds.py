"""The work of `kdad calibrate`: thresholds from pictures, and the checkpoint that has them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, ListConfig
from rich.console import Console

from kdad.data.images import limit_size
from kdad.data.oddities import Oddities, find_range, read_header
from kdad.data.roi import resize_roi
from kdad.engine.checkpoint import Checkpoint
from kdad.errors import UserError
from kdad.inference.decision import BY_F1, Decision, Normals, check_rule
from kdad.inference.files import check_output, find_checkpoint, name_calibrated, read_checkpoint, write_checkpoint
from kdad.inference.inputs import Inputs, Item
from kdad.storage.tensors import hash_file

if TYPE_CHECKING:
    from kdad.inference.detector import Detector


def set_thresholds(cfg: DictConfig) -> None:
    """Judge the pictures and write a checkpoint with thresholds from them. Raises `UserError`."""
    by_f1 = cfg.rule == BY_F1
    if not by_f1:
        check_rule(cfg.rule, cfg.false_alarms, cfg.k)
    elif not cfg.anomalous:
        raise UserError("rule=f1 is the best on normal and anomalous pictures: anomalous=<folder> is needed, too")
    limit_size(cfg.max_megapixels, "max_megapixels")
    path = find_checkpoint(cfg.ckpt_path, warn=False)  # other thresholds are what is asked for
    output = Path(cfg.output).expanduser() if cfg.output else name_calibrated(path)
    check_output(output, cfg.overwrite)
    from kdad.inference.detector import load  # with torch, once nothing is missing

    detector = load(
        path, cfg.device, cfg.backbone.weights, list(cfg.plugins), cfg.batch_size, with_decision=False, roi=cfg.roi
    )
    content = read_checkpoint(path)
    seen = list_trained_files(Checkpoint(path, content))
    normal, trained_on = collect(detector, cfg.normal, "normal", seen)
    anomalous = collect(detector, cfg.anomalous, "anomalous", set())[0] if cfg.anomalous else None
    source = "given_training" if trained_on else "given"
    decision = normal.decide(
        cfg.rule, cfg.false_alarms, cfg.k, source, detector.setting, anomalous if by_f1 else None
    )  # fmt: skip
    content["kdad"] = {**content["kdad"], "decision": decision.to_plain()}
    write_checkpoint(content, output, cfg.overwrite)
    console = Console()
    if trained_on:
        console.print(f"{trained_on} of the normal pictures are of those that it was trained on", soft_wrap=True)
    for line in describe(decision, normal, anomalous):
        console.print(line, soft_wrap=True)
    console.print(f"Written: {output}", soft_wrap=True, markup=False)


def collect(detector: "Detector", named: Any, key: str, trained: set[Path]) -> tuple[Normals, int]:
    """Judge the pictures that a key names, of exact copies one.

    Returns what thresholds are taken from, and how many of the pictures are among those `trained` on. Raises
    `UserError` for a picture that cannot be read, and where there is none.
    """
    names = list(named) if isinstance(named, ListConfig) else [named]
    found, trained_on, copies, seen = Normals(), 0, 0, set()
    inputs, odd = Inputs(names, Path("/nonexistent"), key=key), Oddities(detector.rule)

    def select() -> Iterator[Item]:
        nonlocal copies
        for item in inputs.list_files():
            digest = hash_file(item.path) if item.path.is_file() else str(item.path)
            copies += digest in seen
            if digest not in seen:
                seen.add(digest)
                yield item

    from kdad.inference.stream import judge_files

    for item, result in judge_files(detector, select()):
        if isinstance(result, UserError):
            raise result
        odd.add(item.path, read_header(item.path), find_range(result.image))
        trained_on += item.path.resolve() in trained
        roi = None if result.roi is None else resize_roi(result.roi, result.map.shape).numpy()
        found.add(np.array([result.score]), result.map[None], roi)
    remarks = [f"{copies} of the {key} pictures are exact copies of others, and not counted"] if copies else []
    for remark in [*remarks, *inputs.describe_left_out(), *odd.describe()]:
        Console().print(remark, soft_wrap=True, markup=False, highlight=False)
    return found, trained_on


def list_trained_files(checkpoint: Checkpoint) -> set[Path]:
    """Return the files that a detector was trained on, resolved; none of version 0.1, which does not name them."""
    root = Path(checkpoint.config.get("dataset", {}).get("root", ""))
    return {(root / name).resolve() for name in checkpoint.parts.get("train", [])}


def describe(decision: Decision, normal: Normals, anomalous: Normals | None) -> list[str]:
    """Return sentences on the new thresholds, and on what they do to the pictures that were given."""
    said = [decision.describe()]
    alarms = sum(score > decision.image_threshold for score in normal.scores)
    said.append(f"Of the {len(normal.scores)} normal pictures given, {alarms} are called anomalous")
    if anomalous is not None:
        hits = sum(score > decision.image_threshold for score in anomalous.scores)
        chosen = ", from which the thresholds were chosen" if decision.uses_anomalous else ""
        said.append(f"Of the {len(anomalous.scores)} anomalous pictures given{chosen}, {hits} are")
    return said
