"""ROC and PRO curves of any number of runs."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from kdad.errors import UserError
from kdad.figures.style import COLUMN, PAGE, LineStyle, choose_styles, use_style, wrap_text
from kdad.metrics.pro import LIMIT
from kdad.results.series import Series, find_file
from kdad.results.words import format_percent, name_metric

# False-positive rate and what is drawn above it, (V,) each, both rising
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

SEEN = 1000  # a panel is at most as many dots wide


class Panel(NamedTuple):
    """One kind of curve.

    `x` and `y` are arrays of curves.npz, `metric` is the key of results.json that is the area below them, `others`
    are the beginnings of the names of further metrics of the same things.
    """

    title: str
    x: str
    y: str
    metric: str
    others: tuple[str, ...]
    y_label: str


PANELS = {
    "image": Panel("Images", "image_fpr", "image_tpr", "image_auroc", ("image_",), "true-positive rate"),
    "pixel": Panel("Pixels", "pixel_fpr", "pixel_tpr", "pixel_auroc", ("pixel_",), "true-positive rate"),
    "pro": Panel("Regions", "pro_fpr", "pro", "pro", ("pro_", "spro_", "aupimo"), "per-region overlap"),
}


@use_style()
def draw_curves(
    shown: list[Series], which: Sequence[str] = tuple(PANELS), each: bool = False, metrics: Sequence[str] = ()
) -> Figure:
    """Draw one panel per entry of `which`: image and pixel ROC, and PRO, shaded up to the rate its area is taken to.

    A line is the mean over seeds at equal false-positive rate, in a band from the lowest seed to the highest; with
    `each` there is one line per seed. The areas are those of results.json, mean and sample standard deviation; behind
    an area stand those of the `metrics` that are of the same images, pixels or regions.
    Raises `UserError` for a run without such a curve.
    """
    width = COLUMN if len(which) == 1 else PAGE
    names = [wrap_text(_label_with_seeds(one), 55 if len(which) == 1 else 100) for one in shown]
    across = 1 if max(map(len, names)) > 30 else min(2 if len(which) == 1 else 3, len(names))
    figure = Figure((width, 1), layout="constrained")
    styles = choose_styles([str(one.runs["model"].iloc[0]) for one in shown])
    fit = int(17 * width / len(which)) - 2  # characters below a panel
    lines = 0.0  # below the panel that has most
    for panel, name in zip(figure.subplots(1, len(which), squeeze=False)[0], which, strict=True):
        about = PANELS[name]
        numbers = [about.metric, *(m for m in metrics if m.startswith(about.others) and m != about.metric)]
        if name == "pro":
            panel.axvspan(0, LIMIT, color="0.93", zorder=0)
            panel.text(LIMIT - 0.01, 0.01, f"to {LIMIT}", ha="right", va="bottom", color="0.35", fontsize=7)
        else:
            panel.plot([0, 1], [0, 1], color="0.7", linewidth=0.6, linestyle=":", zorder=1, gid="chance")
        for one, style in zip(shown, styles, strict=True):
            _draw_series(panel, one, about, style, each, numbers)
        panel.set(
            title=about.title, xlabel="false-positive rate", ylabel=about.y_label, xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.02), aspect="equal",
        )  # fmt: skip
        # Below the axis, where no curve can be.
        title = wrap_text(", ".join(map(name_number, numbers)) + " (%)", fit)
        handles, areas = panel.get_legend_handles_labels()
        columns = 2 if len(shown) > 3 and 2 * max(map(len, areas)) + 8 <= fit else 1
        areas = [wrap_text(text.replace(" ± ", "\xa0±\xa0"), fit).replace("\xa0", " ") for text in areas]
        panel.legend(
            handles, areas, loc="upper center", bbox_to_anchor=(0.5, -0.24), title=title, handlelength=1.6,
            borderaxespad=0, ncols=columns,
        )  # fmt: skip
        tallest = max(1 + 1.3 * text.count("\n") for text in areas)
        lines = max(lines, title.count("\n") + 1 + -(-len(shown) // columns) * tallest)
    legend = figure.legend(handles, names, loc="outside lower center", ncols=across)
    below = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer()).height / figure.dpi
    figure.set_figheight(width / max(1.2, len(which)) + 0.45 + 0.155 * lines + below)
    return figure


def _label_with_seeds(one: Series) -> str:
    return one.label if len(one.runs) == 1 else f"{one.label} ({len(one.runs)} seeds)"


def name_number(metric: str) -> str:
    """Return the name of a metric on a panel that says of what it is: AUROC, AP, F1-max, PRO to 0.05."""
    return name_metric(metric).removeprefix("image ").removeprefix("pixel ")


def _draw_series(panel: Axes, one: Series, about: Panel, style: LineStyle, each: bool, numbers: Sequence[str]) -> None:
    label = ", ".join(format_percent(one.runs[name].mean(), one.runs[name].std(ddof=1)) for name in numbers)
    curves = [read_curve(run, about) for _, run in one.runs.iterrows()]
    if each:
        for number, (x, y) in enumerate(curves):
            panel.plot(x, y, **style, linewidth=0.8, alpha=0.8, label=None if number else label)
        return
    x, ys = align_curves(curves)
    panel.plot(x, ys.mean(axis=0), **style, label=label)
    if len(curves) > 1:
        seen = find_seen(x)
        panel.fill_between(
            x[seen], ys[:, seen].min(axis=0), ys[:, seen].max(axis=0), color=style["color"], alpha=0.18, linewidth=0
        )


def read_curve(run: pd.Series, about: Panel) -> Curve:
    """Read a curve that a run has left. Raises `UserError` where it has left none."""
    path = find_file(run, "curves_file")
    try:
        stored = _read_curves(path, path.stat().st_mtime_ns)
    except Exception as error:  # archives raise nearly anything when damaged
        raise UserError(f"{path}: cannot be read: {error}") from error
    if about.x in stored and about.y in stored:
        return stored[about.x], stored[about.y]
    reason = run.get(f"{about.metric}_reason")
    why = f": {reason}" if isinstance(reason, str) else ""
    raise UserError(
        f"{run['folder']} has no curve for {about.metric}{why}. --curves chooses others: {', '.join(PANELS)}"
    )


@lru_cache(2048)  # looked at before anything is drawn, and drawn in up to three panels
def _read_curves(path: Path, changed: int) -> dict[str, NDArray[np.float64]]:
    with np.load(path) as stored:
        return {name: stored[name] for about in PANELS.values() for name in (about.x, about.y) if name in stored}


def find_seen(rates: NDArray[np.float64]) -> NDArray[np.intp]:
    """Choose from rates in [0, 1], ascending, those that a drawing of rising curves needs, by their places.

    The first and the last of each of `SEEN` equal parts of the axis, each narrower than a dot: of many seeds there are
    tens of thousands.
    """
    part = np.floor(rates * SEEN)
    change = np.flatnonzero(part[1:] != part[:-1])
    return np.unique(np.concatenate(([0], change, change + 1, [len(rates) - 1])))


def align_curves(curves: Sequence[Curve]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Evaluate curves at the false-positive rates of all of them. Returns the rates (X,) and the values (curves, X).

    Each rate is there twice, with a curve's lowest and highest value at it. So steps stay steps, and the trapezoid
    rule gives the mean of the curves the mean of their areas. Of rates too dense to be told apart some are left out.
    """
    rates = np.unique(np.concatenate([x for x, _ in curves]))
    rates = rates[find_seen(rates)]
    ys = []
    for x, y in curves:
        first, last = np.searchsorted(x, rates), np.searchsorted(x, rates, side="right") - 1
        between = np.interp(rates, x, y)
        hit = x[np.minimum(first, len(x) - 1)] == rates
        low, high = np.where(hit, y[np.minimum(first, len(x) - 1)], between), np.where(hit, y[last], between)
        ys.append(np.column_stack((low, high)).ravel())
    return np.repeat(rates, 2), np.array(ys)
