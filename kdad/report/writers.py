"""A report as Markdown, LaTeX or CSV. What is in it is decided elsewhere; here it is only laid out."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from kdad.storage.atomic import atomic_write


@dataclass
class Table:
    """Rows of text under a head.

    `head` holds (group, column) pairs, neighbours of one group under one heading; `rules` the rows to draw a line
    above; the first `labels` columns are text, the others figures; `best` are the cells (row, column) to be set in
    bold.
    """

    title: str
    head: list[tuple[str, str]]
    labels: int
    rows: list[list[str]]
    rules: set[int] = field(default_factory=set)
    best: set[tuple[int, int]] = field(default_factory=set)


@dataclass
class Report:
    """Tables with notes under them.

    `name` is the stem of the report's files; `cells` the same figures unrounded, one row per cell, for the CSV file.
    """

    name: str
    title: str
    tables: list[Table]
    notes: list[str]
    cells: pd.DataFrame


def format_markdown(report: Report) -> str:
    """Write a report as Markdown: pipe tables that read well in a terminal too, and the notes as a list.

    A group of columns is named in the first of them.
    """
    parts = [f"## {_escape_markdown(report.title)}"]
    for table in report.tables:
        if table.title:
            parts.append(f"### {_escape_markdown(table.title)}")
        before = ["", *(group for group, _ in table.head[:-1])]
        head = [
            name if group in ("", last) else f"{group}: {name}"
            for last, (group, name) in zip(before, table.head, strict=True)
        ]
        rows = [
            [f"**{text}**" if (i, j) in table.best else text for j, text in enumerate(map(_escape_markdown, row))]
            for i, row in enumerate(table.rows)
        ]
        lines = [list(map(_escape_markdown, head)), *rows]
        widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
        left = [column < table.labels for column in range(len(widths))]
        rule = ["-" * width if flush else "-" * (width - 1) + ":" for width, flush in zip(widths, left, strict=True)]
        padded = [_pad_cells(line, widths, left) for line in lines]
        padded.insert(1, rule)
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in padded))
    parts.append("\n".join(f"- {_escape_markdown(note)}" for note in report.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _pad_cells(cells: list[str], widths: list[int], left: list[bool]) -> list[str]:
    columns = zip(cells, widths, left, strict=True)
    return [cell.ljust(width) if flush else cell.rjust(width) for cell, width, flush in columns]


def _escape_markdown(text: str) -> str:
    """Write text so that it neither ends a cell nor passes for markup."""
    return re.sub(r"([|<*])", r"\\\1", " ".join(text.split()))


def format_csv(report: Report) -> str:
    """Write the unrounded cells as CSV; a figure that is not there is an empty field, with its cause in `status`."""
    return report.cells.to_csv(index=False, lineterminator="\n")


SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': r"\textquotedbl{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "—": "---",
    "×": r"$\times$", "…": r"\dots{}",
}  # fmt: skip


def format_latex(report: Report) -> str:
    r"""Write a report as LaTeX, ready for \input: an environment per table, the notes under the last."""
    parts = [r"% Needs \usepackage{booktabs,graphicx} and \usepackage[T1]{fontenc}."]
    for number, table in enumerate(report.tables):
        columns = "l" * table.labels + "r" * (len(table.head) - table.labels)
        lines = [r"\begin{table}[htbp]", r"\centering", r"\small", r"\setlength{\tabcolsep}{4pt}"]
        title = f"{report.title}. {table.title}" if table.title else report.title
        lines += [rf"\caption{{{escape_latex(title)}}}", rf"\label{{tab:{report.name.replace('_', '-')}-{number}}}"]
        # Only a table that is wider than the page is made smaller.
        lines.append(r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{")
        lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *_write_head(table.head)]
        for index, row in enumerate(table.rows):
            if index in table.rules:
                lines.append(r"\midrule")
            texts = map(escape_latex, row)
            lines.append(
                _join_cells(rf"\textbf{{{t}}}" if (index, j) in table.best else t for j, t in enumerate(texts))
            )
        lines += [r"\bottomrule", r"\end{tabular}", "}"]
        if number == len(report.tables) - 1 and report.notes:
            lines += [r"\par\medskip", r"\begin{minipage}{\linewidth}\footnotesize"]
            lines += [rf"{escape_latex(note)}\par" for note in report.notes] + [r"\end{minipage}"]
        parts.append("\n".join([*lines, r"\end{table}"]))
    return "\n\n".join(parts) + "\n"


def _join_cells(cells: Iterable[str]) -> str:
    first, *others = cells
    # A bracket that opens a row would be taken for the optional argument of the \\ before it.
    if first.startswith("["):
        first = f"{{{first}}}"
    return " & ".join([first, *others]) + r" \\"


def _write_head(head: list[tuple[str, str]]) -> list[str]:
    lines, rules, first = [], [], 1
    for group, columns in groupby(head, key=lambda column: column[0]):
        span = len(list(columns))
        if group:
            lines.append(rf"\multicolumn{{{span}}}{{c}}{{{escape_latex(group)}}}")
            rules.append(rf"\cmidrule(lr){{{first}-{first + span - 1}}}")
        else:
            lines += [""] * span
        first += span
    names = _join_cells(escape_latex(name) for _, name in head)
    return [_join_cells(lines), "".join(rules), names, r"\midrule"] if rules else [names, r"\midrule"]


def escape_latex(text: str) -> str:
    """Write any text for LaTeX.

    Minus signs and maps such as M^{1,2} stand in mathematics, letters beyond Latin by their code.
    """
    text = " ".join(text.split())
    if re.fullmatch(r"[A-Z][\^_](\w|\{[\w,-]+\})", text):
        return f"${text}$"
    escaped = "".join(SPECIAL.get(c, c if ord(c) < 0x180 else f"U+{ord(c):04X}") for c in text)
    return re.sub(r"^-(?=\d)", "$-$", escaped)


FORMATS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "md": (".md", format_markdown), "csv": (".csv", format_csv), "latex": (".tex", format_latex)
}  # fmt: skip


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write a report into a folder in every format. Returns the paths; each file is whole or absent."""
    paths = []
    for suffix, layout in FORMATS.values():
        paths.append(folder / f"{report.name}{suffix}")
        with atomic_write(paths[-1]) as file:
            file.write(layout(report))
    return paths


def find_best(rows: Sequence[Sequence[str]], columns: Iterable[int], groups: Sequence[Any]) -> set[tuple[int, int]]:
    """Find the highest figures of columns, ties as printed included, within each group of several rows.

    None is the best where all are zero. `groups` says of each row which rows it is compared with. Returns their cells
    (row, column).
    """
    found = set()
    for column in columns:
        for group in dict.fromkeys(groups):
            figures = {
                i: float(match.group())
                for i, row in enumerate(rows)
                if groups[i] == group and (match := re.match(r"-?[0-9.]+", row[column]))
            }
            if len(figures) > 1 and any(figures.values()):
                found |= {(i, column) for i, value in figures.items() if value == max(figures.values())}
    return found


def find_best_across(rows: Sequence[Sequence[str]], labels: int) -> set[tuple[int, int]]:
    """Find the highest figure of each row, ties as printed included. Returns their cells (row, column)."""
    turned = [list(column) for column in zip(*rows, strict=True)][labels:]
    return {(i, j + labels) for j, i in find_best(turned, range(len(rows)), [0] * len(turned))}
