"""Runs as one HTML page that needs no network: leaderboard, comparison, curves, hardest images."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

import kdad
from kdad import published
from kdad.errors import UserError
from kdad.page.embedded import Links, embed_curves, embed_galleries, embed_histogram
from kdad.page.sections import has_robustness, list_sections
from kdad.page.sides import embed_sides, find_links
from kdad.report.paper import NONE, has_printed_runs, make_paper_report
from kdad.report.study import make_study_report
from kdad.report.writers import Report, Table
from kdad.results.read import METRICS, is_metric
from kdad.results.series import is_corrupted, name_detector
from kdad.results.settings import describe_runs
from kdad.results.words import format_percent, format_value, name_metric
from kdad.settings.roles import flatten
from kdad.storage.atomic import atomic_write

FILTERS = {
    "model": "Model", "dataset": "Data set", "category": "Category", "backbone": "Backbone", "status": "Status"
}  # fmt: skip
NAMED = "backbone.name=", "image_size="  # settings that have columns of their own
UNFOLDED = 16  # runs of which scores and images are shown at once; of more, where they are asked for
ABSENT = "missing", NONE  # what a paper's table says where no run belongs


def list_columns(metrics: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """Return the leaderboard's columns with their headings, and whether they hold numbers."""
    return {
        "number": ("Run", True), "model": ("Model", False), "dataset": ("Data set", False),
        "category": ("Category", False), "seed": ("Seed", True),
        **{metric: (f"{name_metric(metric)[0].upper()}{name_metric(metric)[1:]} (%)", True) for metric in metrics},
        "status": ("Status", False), "backbone": ("Backbone", False), "image_size": ("px", True),
        "fit_seconds": ("Training (s)", True), "test_seconds": ("Test (s)", True), "settings": ("Settings", False),
    }  # fmt: skip


def write_html(path: Path, runs: pd.DataFrame, pictures: int, metrics: Sequence[str] = METRICS) -> int:
    """Write the page of `runs`, which are those of `read_runs`, whole or not at all. Returns its size in bytes.

    Each run shows at most `pictures` of its test images, half of them normal. What a run has not left is said in its
    place. Raises `UserError` for a negative number of pictures, or a folder in the place of the file.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file, such as {path / 'report.html'}")
    if pictures < 0:
        raise UserError(f"--pictures {pictures}: give a number of pictures for each run, 0 for none")
    text = render_page(runs, pictures, metrics)
    with atomic_write(path) as file:
        file.write(text)
    return path.stat().st_size


def render_page(runs: pd.DataFrame, pictures: int, metrics: Sequence[str] = METRICS) -> str:
    """Return the page's text: styles, script and pictures are inside; whatever comes from the runs is escaped."""
    table = describe_runs(runs)[0]
    table["settings"] = table["settings"].map(_drop_columns)
    order = ["dataset", "category", metrics[0]]
    table = table.sort_values(order, ascending=[True, True, False], na_position="last", kind="stable")
    table["number"] = range(1, len(table) + 1)
    loader = jinja2.PackageLoader("kdad.page")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.undefined = jinja2.StrictUndefined
    sides, sections = list(embed_sides(table, pictures)), list(list_sections(runs, metrics))
    # What robustness shows would be one more detector in means and curves.
    main = table[~is_corrupted(table)] if has_robustness(sections) else table
    apart = find_differing_keys(table)
    best = main.groupby(["dataset", "category"])[list(metrics)].transform("max").reindex(table.index)
    shown = [
        _describe_run(run, apart, row, pictures, metrics, find_links(run, sides))
        for (_, run), (_, row) in zip(table.iterrows(), best.iterrows(), strict=True)
    ]
    settings = any(text for text, _ in (run["cells"]["settings"] for run in shown))
    return environment.get_template("report.html").render(
        version=kdad.__version__,
        latest=datetime.fromtimestamp(table["modified"].max(), UTC).strftime("%Y-%m-%d %H:%M UTC"),
        counts=table["status"].value_counts().to_dict(),
        filters={key: (name, _list_choices(table[key])) for key, name in FILTERS.items()},
        columns={key: about for key, about in list_columns(metrics).items() if key != "settings" or settings},
        runs=shown,
        unfolded=UNFOLDED,
        means=make_study_report(runs[runs.index.isin(main.index)]),
        published=list(_make_paper_reports(runs)),
        absent_rows=find_absent_rows,
        sections=sections,
        robust=has_robustness(sections),
        groups=list(embed_curves(main)),
        sides=sides,
        skipped=runs.attrs.get("skipped", []),
    )


def _drop_columns(settings: str) -> str:
    """Return settings without those that the leaderboard has a column for."""
    return ", ".join(text for text in settings.split(", ") if not text.startswith(NAMED))


def _list_choices(column: pd.Series) -> list[str]:
    return sorted(column.dropna().astype(str).unique())


def _describe_run(
    run: pd.Series, apart: set[str], best: pd.Series, pictures: int, metrics: Sequence[str], links: Links
) -> dict[str, Any]:
    """Return a run's row in the leaderboard, and all that its own part of the page shows."""
    config = flatten(run["config"])
    seed = "" if pd.isna(run["seed"]) else f"seed {run['seed']:.0f}"
    place = f"{name_detector(run['model'])} on {run['dataset']} {run['category']}"
    kind = {"variant": f"variant {run['variant']}", "evaluation": "tested again"}.get(run["kind"], "")
    shown: dict[str, Any] = {"histogram": None, "histogram_problem": "", "galleries": [], "gallery_note": ""}
    if run["status"] == "ok":
        shown = embed_histogram(run) | embed_galleries(run, pictures, links)
    return {
        "number": run["number"],
        "name": ", ".join(filter(None, [place, seed, kind])),
        "status": run["status"],
        "error": "" if pd.isna(run["error"]) else str(run["error"]).strip(),
        "folder": str(run["folder"]),
        "cells": {key: _format_cell(run, key, kind) for key in list_columns(metrics)},
        "best": {metric for metric in metrics if run[metric] == best[metric]},
        "scores": [(name_metric(m), format_percent(run[m]), _keep_text(run.get(f"{m}_reason"))) for m in metrics],
        "settings": run["settings"],
        "apart": {key: format_value(config[key]) for key in config if key in apart},
        "config": run["config_file"].read_text(encoding="utf-8") if config else "",
        **shown,
    }  # fmt: skip


def _format_cell(run: pd.Series, key: str, kind: str) -> tuple[str, str]:
    """Return a cell's text and its sort key: the unrounded number, or an empty text where there is none."""
    value = run.get(key)
    if key == "settings":
        text = ", ".join(filter(None, [kind, run["settings"]]))
        return text, text
    if not pd.api.types.is_scalar(value) or pd.isna(value):
        return NONE, ""
    if is_metric(key):
        return f"{100 * value:.2f}", repr(float(value))
    if key.endswith("_seconds"):
        return f"{value:.1f}", repr(float(value))
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text, text


def _keep_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def find_differing_keys(table: pd.DataFrame) -> set[str]:
    """Return the dotted keys in which configurations differ.

    Either not all that have the key have one value, or of one detector some have it and some have not. A group's copy
    of a key, such as dataset.seed of seed, is not named as well.
    """
    flat = [(run["model"], flatten(run["config"])) for _, run in table.iterrows() if run["config"]]
    differing = set()
    for key in {key for _, config in flat for key in config}:
        _, dot, last = key.rpartition(".")
        if dot and all(last in config and config[last] == config[key] for _, config in flat if key in config):
            continue
        having = [(model, config[key]) for model, config in flat if key in config]
        models = {model for model, _ in having}
        lacking = any(model in models and key not in config for model, config in flat)
        values = {json.dumps(value, sort_keys=True, default=str) for _, value in having}
        if (lacking or len(values) > 1) and not any(isinstance(value, dict) for _, value in having):
            differing.add(key)
    return differing


def _make_paper_reports(runs: pd.DataFrame) -> Iterator[Report]:
    """Yield the papers' tables in which some run, finished or not, matches a printed cell."""
    for paper in published.list_papers():
        for name in published.list_tables(paper) if paper in set(runs["model"]) else []:
            if not has_printed_runs(paper, name, runs):
                continue
            made = make_paper_report(paper, name, runs)
            status = made.cells["status"]
            here = ~status.isin(["missing", "not measured"]) & ~status.str.startswith("without")
            if (here & (made.cells["published"] != "")).any():
                yield made


def find_absent_rows(table: Table) -> set[int]:
    """Return the rows of a paper's table, by number from 0, that no run belongs to."""
    measured = [column for column, (_, name) in enumerate(table.head) if name == "measured"]
    if not measured:
        return set()
    return {number for number, row in enumerate(table.rows) if all(row[column] in ABSENT for column in measured)}
