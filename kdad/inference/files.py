"""Checkpoint files: found, read without running code, and written."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdad.errors import UserError
from kdad.storage.atomic import refuse_existing
from kdad.storage.tensors import read_plain, write_tensors

MOST_EPOCHS = 10**9  # more are no number of epochs
log = logging.getLogger(__name__)
TESTED = Path("checkpoints/tested.ckpt")  # of a run: the weights that were tested
OWN = "teacher_state"  # the teacher's weights, in a checkpoint that needs no other file


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file without running code. Raises `UserError` if it is missing, damaged or no checkpoint of kdad's."""
    if not path.is_file():
        raise UserError(f"ckpt_path={path}: no such file (looked for {path.absolute()})")
    content = read_plain(path, "ckpt_path", "a checkpoint of plain values", "Files that would run code are refused.")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), Mapping) for key in ("state_dict", "teacher", "kdad")
    ):
        raise UserError(f"ckpt_path={path}: not a checkpoint written by kdad")
    made_by = content["kdad"]
    empty: dict[str, Any] = {"overrides": [], "config": {}, "parts": {}}
    wrong = [key for key, none in empty.items() if not isinstance(made_by.get(key, none), type(none))]
    lists = [] if wrong else [made_by.get("overrides", []), *made_by.get("parts", {}).values()]
    plain = all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists)
    epochs = content.get("epoch"), made_by.get("tested_epoch", 0)
    counted = all(type(epoch) is int and 0 <= epoch < MOST_EPOCHS for epoch in epochs)
    if wrong or not plain or not counted:
        raise UserError(f"ckpt_path={path}: what it says of its making cannot be read. Was it changed?")
    return content


def find_checkpoint(path: str | Path, warn: bool = True) -> Path:
    """Return the checkpoint that a path names: the file itself, or of a run's folder the weights that were tested.

    With `warn` it tells of one with thresholds of `kdad calibrate` beside these. Raises `UserError` where none is.
    """
    path = Path(path).expanduser()
    found = path / TESTED if path.is_dir() else path
    if not found.is_file():
        raise UserError(f"{path}: no checkpoint. Give a run's folder, which holds {TESTED}, or a .ckpt file")
    if warn and found != path and (calibrated := name_calibrated(found)).is_file():
        log.warning("%s is taken, with the thresholds of training. %s holds calibrated ones: name it to use them.",
                    found, calibrated)  # fmt: skip
    return found.absolute()


def name_calibrated(path: Path) -> Path:
    """Return where the checkpoint with thresholds of `kdad calibrate` lies beside another."""
    return path.with_name(f"{path.stem}.calibrated{path.suffix}")


def write_checkpoint(content: Mapping[str, Any], path: Path, overwrite: bool) -> None:
    """Write a checkpoint, whole or not at all. Raises `UserError` where there is a file already, unless `overwrite`."""
    check_output(path, overwrite)
    write_tensors(dict(content), path)


def check_output(path: Path, overwrite: bool) -> None:
    """Raise `UserError` for the name of a checkpoint that could not be read as one, or that is taken."""
    if path.suffix == ".safetensors":
        raise UserError(f"output={path}: a checkpoint is called <name>.ckpt, it holds more than tensors")
    refuse_existing(path, overwrite, "output=<file>")
