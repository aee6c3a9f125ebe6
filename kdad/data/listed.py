"""Pictures that a CSV file lists, wherever they lie: columns path and label, and if wanted mask, split and kind."""

import csv
import difflib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kdad.data.images import SUFFIXES
from kdad.data.samples import Sample
from kdad.errors import UserError

NEEDED, FURTHER = ("path", "label"), ("mask", "split", "kind")
LABELS = {"0": 0, "normal": 0, "1": 1, "anomalous": 1}
LABELS_OF = ("normal", "anomalous")
SPLITS = ("train", "validation", "test")
NORMAL = ("", "good", "normal")  # what a normal picture's kind may say
SHOWN = 10  # bad rows that a message has room for


class Row(NamedTuple):
    """A picture of the list: its part is empty where the list has no column for that."""

    sample: Sample
    split: str
    line: int


class Listed(NamedTuple):
    """All pictures of a list: its `rows`, and `has_splits`, whether it says which part each is in."""

    rows: list[Row]
    has_splits: bool

    def choose(self, split: str) -> list[Sample]:
        """Return the pictures of a part, sorted by path; of a list without such a column, "normal" or "anomalous"."""
        return sorted(row.sample for row in self.rows if (row.split or LABELS_OF[row.sample.label]) == split)


def read_list(path: Path) -> Listed:
    """Read a list of pictures; the paths in it are absolute, or start from its own folder. Returns them, in its order.

    Raises `UserError` for a file that is no such list, and for bad rows, each with its line number: a missing or
    doubled picture, a label, part or mask that cannot be, an anomalous picture that is not to be tested.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"dataset.list: cannot read {path}: {error}. Save it as CSV in UTF-8") from error
    head = text.partition("\n")[0]
    table = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    columns = [name.strip().lower() for name in next(table, [])]
    _check_columns(path, columns)
    rows: list[Row] = []
    lines: dict[Path, int] = {}  # of the pictures so far
    problems: list[str] = []
    for line, cells in _read_cells(path, table):
        try:
            if len(cells) != len(columns):
                raise UserError(f"{len(cells)} cells, but the head names {len(columns)} columns")
            row = _read_row(dict(zip(columns, cells, strict=True)), path.parent, line, "split" in columns)
            first = lines.setdefault(row.sample.path.resolve(), line)
            if first != line:
                raise UserError(f"{row.sample.path} stands in line {first} already: name each picture once")
            rows.append(row)
        except UserError as error:
            problems.append(f"line {line}: {error}")
    anomalous = [row for row in rows if row.sample.label]
    masked = [row for row in anomalous if row.sample.mask]
    if masked and not problems:
        problems = [
            f"line {row.line}: no mask for the anomalous {row.sample.path}, while line {masked[0].line} has one. Name "
            "one for each of them, or none"
            for row in anomalous if not row.sample.mask
        ]  # fmt: skip
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise UserError("\n".join([f"dataset.list: {path} has {len(problems)} bad rows", *problems[:SHOWN], *more]))
    if not rows:
        raise UserError(f"dataset.list: {path} lists no picture: below its head, each line names one")
    return Listed(rows, "split" in columns)


def _check_columns(path: Path, columns: list[str]) -> None:
    found = f"its first line names {', '.join(filter(None, columns)) or 'nothing'}"
    if missing := [name for name in NEEDED if name not in columns]:
        raise UserError(
            f"dataset.list: {path} has no column {missing[0]}; {found}. Give {', '.join(NEEDED)}, and if you like "
            f"{', '.join(FURTHER)}"
        )
    if double := [name for name in columns if name and columns.count(name) > 1]:
        raise UserError(f"dataset.list: {path} has two columns {double[0]}: keep one")
    for name in columns:  # others are the user's own affair, but not a slip of the pen
        near = difflib.get_close_matches(name, (*NEEDED, *FURTHER), 1, cutoff=0.75)
        if near and near[0] not in columns:
            raise UserError(f"dataset.list: {path} has a column {name}, which is not read: is it {near[0]}?")


def _read_cells(path: Path, table: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells without blanks around them) of each line of a CSV reader's that is not empty."""
    try:
        for cells in table:
            if any(cell.strip() for cell in cells):
                yield table.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise UserError(f"dataset.list: {path} is no CSV, see line {table.line_num}: {error}") from error


def _read_row(cells: dict[str, str], folder: Path, line: int, has_split: bool) -> Row:
    """Read a line. Raises `UserError` for what cannot be."""
    split, kind = cells.get("split", "").lower(), cells.get("kind", "")
    path = _find_file("path", cells["path"], folder)
    label = LABELS.get(cells["label"].lower())
    if label is None:
        raise UserError(f"label {cells['label'] or 'is empty'}: give 0 or normal, 1 or anomalous")
    if has_split and split not in SPLITS:
        raise UserError(f"split {split or 'is empty'}: give {', '.join(SPLITS)}, or leave the whole column out")
    if not label:
        if kind.lower() not in NORMAL:
            raise UserError(f"{path} is normal, but of the kind {kind}: leave that empty, or label it 1")
        if cells.get("mask"):
            raise UserError(f"{path} is normal, but has the mask {cells['mask']}: leave that empty, or label it 1")
        return Row(Sample(path, 0, "good"), split, line)
    if split in ("train", "validation"):
        raise UserError(
            f"{path} is anomalous, but its split is {split}: normal pictures alone are seen before the test. Give test "
            "(dataset.contamination= mixes some in, for a study)"
        )
    if kind.lower() == "good":
        raise UserError(f"{path} is anomalous, but of the kind good, as normal ones are: name the defect")
    mask = _find_file("mask", cells["mask"], folder) if cells.get("mask") else None
    return Row(Sample(path, 1, kind or "anomalous", mask), split, line)


def _find_file(column: str, name: str, folder: Path) -> Path:
    if not name:
        raise UserError(f"{column} is empty")
    try:
        path = Path(os.path.normpath(folder / Path(name).expanduser()))  # by its name below root its part is decided
        there = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, of an unknown user's home, with a NUL
        raise UserError(f"{column} {name[:80]}: {error}") from error
    if not there:
        raise UserError(f"{column} {name}: no file {path}")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{column} {name}: only {', '.join(sorted(SUFFIXES))} are read")
    return path
