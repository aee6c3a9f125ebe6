"""What runs say of some of their defects: kinds of images, by their scores, and regions, as the test measured them."""

import csv
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kdad.errors import UserError

ANY_BYTES = "surrogateescape"  # a file's name need not be UTF-8


class Kind(NamedTuple):
    """What a run says of one kind of anomalous image."""

    images: int
    image_auroc: float  # in [0, 1], against all normal images; NaN without any
    detected: float  # the share called anomalous; NaN where there was no decision


def measure_kinds(scores_file: Path | None) -> dict[str, Kind]:
    """Measure each kind of anomalous image in a run's scores.csv against all of its normal images.

    Returns the kinds by name, sorted; none for a file without kinds, as of version 0.1. Raises `UserError` for a file
    that is no such table.
    """
    table = read_columns(scores_file) if isinstance(scores_file, Path) else {}
    if not scores_file or not {"label", "score", "kind"} <= set(table):
        return {}
    label, score = (parse_numbers(table[name], scores_file, name) for name in ("label", "score"))
    decision = parse_numbers(table["decision"], scores_file, "decision") if "decision" in table else label * np.nan
    kind, found = np.array(table["kind"], dtype=object), {}
    for name in sorted({name for name in kind[label == 1] if name}):
        part = (label == 1) & (kind == name)
        decided = decision[part & ~np.isnan(decision)]
        detected = float(decided.mean()) if len(decided) else math.nan
        found[name] = Kind(int(part.sum()), rank(score[label == 0], score[part]), detected)
    return found


def read_defects(file: Path | None) -> dict[str, NDArray[Any]]:
    """Read a run's defects.csv. Returns its columns, with a row for each kind and size of region; {} where it has none.

    Columns: `by` (kind or size), `name`, `images`, `regions`, `pixels`, and pro, pixel_ap, pixel_f1_max and aupimo in
    [0, 1]. Raises `UserError` for a file that is no such table.
    """
    columns = ["by", "name", "images", "regions", "pixels", "pro", "pixel_ap", "pixel_f1_max", "aupimo"]
    if not isinstance(file, Path):
        return {}
    table = read_columns(file)
    refuse_lacking(table, columns, file)
    numbers = {name: parse_numbers(table[name], file, name) for name in columns[2:]}
    counts = {name: numbers[name].astype(int) for name in columns[2:5] if np.isfinite(numbers[name]).all()}
    return {name: np.array(table[name], dtype=object) for name in columns[:2]} | numbers | counts


def refuse_lacking(table: Mapping[str, Any], columns: Sequence[str], path: Path) -> None:
    """Raise `UserError` where a table lacks one of these columns."""
    if lacking := [name for name in columns if name not in table]:
        raise UserError(f"{path}: no column {', '.join(lacking)}. Was it changed?")


def drop_damaged(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs without those of their tables of scores and defects that cannot be believed.

    These are no tables, lack columns, or hold another number of images than were tested; `.attrs["skipped"]` says so.
    """
    kept, said = runs.copy(), list(runs.attrs.get("skipped", []))
    for index, run in runs.iterrows():
        for column in ("scores_file", "defects_file"):
            file = run[column]
            if not isinstance(file, Path):
                continue
            try:
                if column == "defects_file":
                    read_defects(file)
                else:
                    check_scores(file, run.get("n_test"))
            except UserError as error:
                kept.at[index, column] = None
                said.append(f"{error} It is left out")
    kept.attrs["skipped"] = said
    return kept


def check_scores(file: Path, tested: Any = None) -> None:
    """Raise `UserError` where a scores.csv is no such table, or has not as many rows as images were `tested`."""
    table = read_columns(file)
    refuse_lacking(table, ["path", "label", "score"], file)
    for name in ("label", "score"):
        parse_numbers(table[name], file, name)
    if isinstance(tested, int | float) and not math.isnan(tested) and len(table["path"]) != tested:
        raise UserError(f"{file}: {len(table['path'])} rows, but {tested:.0f} images were tested. Was it changed?")


def read_columns(path: Path) -> dict[str, list[str]]:
    """Read a CSV file as texts, by column. Raises `UserError` where it is none, or has rows of other lengths.

    Of a file of some hundred rows it takes a tenth of the time that pandas does, and a study has thousands of files.
    One that is as it was is read once.
    """
    status = path.stat()
    return _read_columns(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _read_columns(path: Path, changed: int, size: int) -> dict[str, list[str]]:
    try:
        with path.open(encoding="utf-8", errors=ANY_BYTES, newline="") as file:
            head, *rows = [row for row in csv.reader(file) if row] or [[]]
        if odd := next((number for number, row in enumerate(rows, 2) if len(row) != len(head)), None):
            raise ValueError(f"row {odd} has another number of cells than the head")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table: {error}. Was it changed?") from error
    columns = zip(*rows, strict=True) if rows else [()] * len(head)
    return {name: list(column) for name, column in zip(head, columns, strict=True)}


def parse_numbers(texts: Sequence[str], path: Path, name: str) -> NDArray[np.float64]:
    """Return a column's numbers, NaN for an empty cell. Raises `UserError` where it holds anything else."""
    try:
        return np.array([text or "nan" for text in texts], dtype=float)
    except ValueError:
        raise UserError(f"{path}: the column {name} holds something else than numbers. Was it changed?") from None


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """Read a CSV file by pandas' options. Raises `UserError` where it is none."""
    try:
        return pd.read_csv(path, encoding_errors=ANY_BYTES, **options)
    except (ValueError, OverflowError) as error:  # pandas' own errors
        raise UserError(f"{path}: cannot be read as a table: {error}. Was it changed?") from error


def rank(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """Return the share of pairs of a normal and an anomalous score that are in order, ties counting half."""
    if not len(normal) or not len(anomalous):
        return float("nan")
    if np.isnan(normal).any() or np.isnan(anomalous).any():
        return float("nan")
    ordered = np.sort(normal)
    below, not_above = (np.searchsorted(ordered, anomalous, side).sum() for side in ("left", "right"))
    return float((below + not_above) / 2 / (len(normal) * len(anomalous)))
