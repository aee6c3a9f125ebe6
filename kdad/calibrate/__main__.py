"""Set a trained detector's thresholds from pictures of your own: `python -m kdad.calibrate ckpt_path= normal=<folder>`.

Without training, into a new checkpoint beside the given one. `normal` are normal pictures that the detector has not
been trained on: a file, a folder with all below it, a pattern, or a list of these. With `anomalous` pictures it says
how many are detected; they set the thresholds only by rule=f1. No code in a checkpoint is run.

- `kdad calibrate ckpt_path=<run> normal=ok`: one false alarm in a hundred normal pictures
- `kdad calibrate ckpt_path=<run> normal=ok anomalous=scratched false_alarms=0.001`
"""

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, ListConfig
from rich.console import Console

from kdad.data.images import limit_size
from kdad.data.oddities import Oddities, find_brightest, read_header
from kdad.engine.launch import launch_without_folder
from kdad.errors import UserError
from kdad.inference.decision import BY_F1, Decision, Normals, check_rule, read_setting
from kdad.inference.detector import Detector, load
from kdad.inference.inputs import Inputs
from kdad.inference.stream import judge_files
from kdad.inference.trained import find_checkpoint, read_checkpoint, read_parts, write_checkpoint
from kdad.settings.checks import check_configuration
from kdad.storage.atomic import refuse_existing


def main() -> None:
    """Run `kdad calibrate`, which is `python -m kdad.calibrate`."""
    launch_without_folder(calibrate, "calibrate", completes=False)


def calibrate(cfg: DictConfig) -> None:
    """Judge the pictures and write a checkpoint with thresholds from them. Raises `UserError`."""
    check_configuration(cfg, "calibrate")
    if not cfg.ckpt_path or not cfg.normal:
        raise UserError("ckpt_path=<run folder or checkpoint> and normal=<folder of normal pictures> are needed")
    by_f1 = cfg.rule == BY_F1
    if not by_f1:
        check_rule(cfg.rule, cfg.false_alarms, cfg.k)
    elif not cfg.anomalous:
        raise UserError("rule=f1 is the best on normal and anomalous pictures: anomalous=<folder> is needed, too")
    limit_size(cfg.max_megapixels)
    path = find_checkpoint(cfg.ckpt_path)
    output = Path(cfg.output).expanduser() if cfg.output else path.with_name(f"{path.stem}.calibrated{path.suffix}")
    refuse_existing(output, cfg.overwrite, "output=<file>")
    detector = load(path, cfg.device, cfg.backbone.weights, list(cfg.plugins), cfg.batch_size)
    content = read_checkpoint(path)
    setting = read_setting(read_parts(path, content["kdad"].get("config"))["model"], detector.network.scoring)
    normal = collect(detector, cfg.normal)
    anomalous = collect(detector, cfg.anomalous) if cfg.anomalous else None
    decision = normal.decide(cfg.rule, cfg.false_alarms, cfg.k, "given", setting, anomalous if by_f1 else None)
    content["kdad"] = {**content["kdad"], "decision": decision.to_plain()}
    write_checkpoint(content, output, cfg.overwrite)
    console = Console()
    for line in describe(decision, detector.decision, normal, anomalous):
        console.print(line, soft_wrap=True)
    console.print(f"Written: {output}", soft_wrap=True, markup=False)


def collect(detector: Detector, named: Any) -> Normals:
    """Judge the pictures that a key names. Returns what thresholds are taken from. Raises `UserError` for a bad one."""
    names = list(named) if isinstance(named, ListConfig) else [named]
    found = Normals()
    inputs, odd = Inputs(names, Path("/nonexistent")), Oddities()
    for item, result in judge_files(detector, inputs.list_files()):
        if isinstance(result, UserError):
            raise result
        odd.add(item.path, read_header(item.path), find_brightest(result.image))
        found.add(np.array([result.score]), result.map[None])
    for remark in [*inputs.describe_left_out(), *odd.describe()]:
        Console().print(remark, soft_wrap=True, markup=False, highlight=False)
    return found


def describe(decision: Decision, before: Decision | None, normal: Normals, anomalous: Normals | None) -> list[str]:
    """Return sentences on the new thresholds, and on what they do to the pictures that were given."""
    said = [decision.describe()]
    if before:
        said.append(f"Before: {before.describe()}")
    alarms = sum(score > decision.image_threshold for score in normal.scores)
    said.append(f"Of the {len(normal.scores)} normal pictures given, {alarms} are called anomalous")
    if anomalous is not None:
        hits = sum(score > decision.image_threshold for score in anomalous.scores)
        chosen = ", from which the thresholds were chosen" if decision.uses_anomalous else ""
        said.append(f"Of the {len(anomalous.scores)} anomalous pictures given{chosen}, {hits} are")
    return said


if __name__ == "__main__":
    main()
