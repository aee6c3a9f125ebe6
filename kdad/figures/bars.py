"""Bars by category of several detectors, as in DSKD, Fig. 9."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdad import published
from kdad.errors import UserError
from kdad.figures.style import COLUMN, PAGE, choose_styles, use_style, wrap_text
from kdad.results.read import METRICS
from kdad.results.series import Series
from kdad.results.statistics import average_seeds, list_averages
from kdad.results.words import name_metric

GROUP = 0.84  # of a category's width that its bars fill
NARROW = 8  # bars in a panel, at most, for a figure of one column


def load_marks(paper: str, table: str, dataset: str, setting: str | None = None) -> pd.DataFrame:
    """Read the scores by category that a paper prints of its own detector, in one setting of a table.

    Returns cells of `published.load_table`. Raises `UserError` where there are none, or of several settings.
    """
    cells = published.load_table(paper, table)
    own = cells[cells["own"] & cells["fraction"].notna() & (cells["dataset"] == dataset)]
    own = own[~own["category"].str.startswith("average")]
    settings = list(own["setting"].unique())
    if not settings:
        raise UserError(f"{paper} table {table} has no scores of {paper.upper()} by category of {dataset}")
    if (setting is None and len(settings) > 1) or (setting is not None and setting not in settings):
        raise UserError(
            f"--setting {setting or '<name>'}: {paper} table {table} has the settings {', '.join(settings)}"
        )
    return own[own["setting"] == (settings[0] if setting is None else setting)]


@use_style()
def draw_bars(
    shown: list[Series],
    metrics: Sequence[str] = METRICS,
    marks: pd.DataFrame | None = None,
    lowest: float = 0.0,
) -> Figure:
    """Draw one panel per metric: for each category one bar per detector or setting, in percent, the mean over seeds.

    Whiskers are the sample standard deviation over seeds. A bar that is missing leaves its place empty but for a
    cross, and the note below says why. `marks` (`load_marks`) are drawn as diamonds over the bars of the paper's
    detector. Every panel's axis starts at `lowest`, by default 0, so that lengths compare. Raises `UserError` where no
    metric has a mark.
    """
    if marks is not None and not set(marks["metric"]) & set(metrics):
        raise UserError(f"the table has {', '.join(marks['metric'].unique())} only: --metrics chooses what is drawn")
    dataset = shown[0].runs["dataset"].iloc[0]
    run = list(dict.fromkeys(category for one in shown for category in one.runs["category"]))
    known = list_averages(dataset).get("average", [])
    categories = [c for c in known if c in run] + sorted(set(run) - set(known))
    width = COLUMN if len(categories) * len(shown) <= NARROW else PAGE
    wide = int(width * 19)  # characters of a small line
    labels = [wrap_text(one.label, wide - 8) for one in shown]
    across = 1 if max(map(len, labels)) > wide // 5 else min(4 if width == PAGE else 3, len(labels))
    rows = -(-(sum(label.count("\n") + 1 for label in labels) + (marks is not None)) // across)
    figure = Figure((width, 1.5 * len(metrics) + 0.6 + 0.14 * rows), layout="constrained")
    axes = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    gaps: dict[str, dict[str, list[str]]] = {}
    styles = choose_styles([str(one.runs["model"].iloc[0]) for one in shown])
    for panel, metric in zip(axes, metrics, strict=True):
        for number, (one, label) in enumerate(zip(shown, labels, strict=True)):
            place = np.arange(len(categories)) + GROUP * ((number + 0.5) / len(shown) - 0.5)
            colour, thickness = styles[number]["color"], GROUP / len(shown)
            _draw_series(panel, one, label, metric, categories, place, colour, thickness, gaps)
            if marks is not None and one.runs["model"].iloc[0] == marks["paper"].iloc[0]:
                _draw_marks(panel, marks[marks["metric"] == metric], categories, place)
        panel.set_ylim(lowest, 101)
        for cross in panel.texts:
            cross.set_y(lowest)
        panel.set_ylabel(f"{name_metric(metric)} (%)")
        panel.grid(axis="y", color="0.9", linewidth=0.5)
        panel.set_axisbelow(True)
        panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes[-1].set_xlim(-0.6, len(categories) - 0.4)
    axes[-1].set_xticks(range(len(categories)), categories, rotation=0 if len(categories) < 9 else 45)
    if len(categories) >= 9:
        for name in axes[-1].get_xticklabels():
            name.set(ha="right", rotation_mode="anchor")
    by_label = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    names = sorted(by_label, key=lambda name: name not in labels)  # what is published comes last
    figure.legend([by_label[name] for name in names], names, loc="outside upper center", ncols=across)
    notes = ([] if marks is None else [_describe_conditions(shown, marks)]) + _describe_gaps(gaps, categories)
    if notes:
        figure.supxlabel(wrap_text("; ".join(notes), wide), fontsize=7, color="0.25")
    return figure


def _draw_series(
    panel: Axes, one: Series, label: str, metric: str, categories: list[str], place: np.ndarray, colour: str,
    thickness: float, gaps: dict[str, dict[str, list[str]]],
) -> None:  # fmt: skip
    """Draw one series' bars, and add what is missing to `gaps`: reason -> series -> categories."""
    runs = one.runs[["category", "status", "error", metric]]  # all columns are slow to select from
    values = [average_seeds(runs[runs["category"] == category], metric) for category in categories]
    there = [i for i, value in enumerate(values) if not value.gap]
    means = [100 * values[i].mean for i in there]
    spreads = [0.0 if math.isnan(values[i].spread) else 100 * values[i].spread for i in there]
    panel.bar(
        place[there], means, thickness, color=colour, edgecolor="white", linewidth=0.4, label=label,
        yerr=spreads if any(spreads) else None, error_kw={"elinewidth": 0.7, "ecolor": "0.2"},
    )  # fmt: skip
    for i, value in enumerate(values):
        if value.gap:
            panel.text(place[i], 0, "×", ha="center", va="bottom", color=colour, fontsize=7)
            reason = {"missing": "not run", "n/a": f"no {name_metric(metric)}"}.get(value.gap, value.gap)
            named = gaps.setdefault(reason, {}).setdefault(one.label, [])
            if categories[i] not in named:
                named.append(categories[i])


def _draw_marks(panel: Axes, marks: pd.DataFrame, categories: list[str], place: np.ndarray) -> None:
    """Draw the published scores."""
    values = {row["category"]: 100 * row["fraction"] for _, row in marks.iterrows()}
    there = [i for i, category in enumerate(categories) if category in values]
    heights = [values[categories[i]] for i in there]
    if there:
        first = marks.iloc[0]
        setting = f", {first['setting']}" if first["setting"] else ""
        label = f"published: {first['method']}, Table {first['table']}{setting}"
        panel.plot(
            place[there], heights, linestyle="none", marker="D", markersize=3.2, markerfacecolor="white",
            markeredgecolor="black", markeredgewidth=0.7, label=label, clip_on=False, zorder=3,
        )  # fmt: skip


def _describe_conditions(shown: list[Series], marks: pd.DataFrame) -> str:
    """Say which backbone and image size the paper and the runs beside it used, which are seldom the same."""
    paper, setting = marks["paper"].iloc[0], marks["setting"].iloc[0]
    about = published.describe_table(paper, marks["table"].iloc[0])
    size = setting if setting in about["image_size"].split("; ") else about["image_size"].replace("; ", " or ")
    runs = pd.concat([one.runs for one in shown if one.runs["model"].iloc[0] == paper])
    backbones, sizes = (" or ".join(map(str, runs[key].dropna().unique())) for key in ("backbone", "image_size"))
    return f"Published with {about['backbone'] or '?'} at {size or '?'} px; measured with {backbones} at {sizes} px"


def _describe_gaps(gaps: dict[str, dict[str, list[str]]], categories: list[str]) -> list[str]:
    return [
        f"× {label}: {reason}" + ("" if len(named) == len(categories) else f" ({', '.join(named)})")
        for reason, by_series in gaps.items()
        for label, named in by_series.items()
    ]
