"""What a detector costs beside what it finds: a point for each, and those that none is both cheaper and better than."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from kdad.figures.style import PAGE, choose_styles, use_style, wrap_text
from kdad.results.series import name_detector
from kdad.results.words import name_metric

AXES = {  # what a figure may set quality against -> what the axis says
    "latency": "ms per image, batch 1",
    "parameters": "million parameters, the teacher's too",
    "training_seconds": "training (s)",
}
WIDE = 10.0  # the dearest costs so many times the cheapest: then the axis is logarithmic
WIDTH = 0.75 * PAGE


@use_style()
def draw_costs(points: pd.DataFrame, x: str, metric: str, machine: str) -> Figure:
    """Draw the points of one data set, the Pareto front as a line with its members' names.

    `points` has a row for each detector and setting: detector (its short name), model, settings; value and spread in
    percent; cost, low and high as `AXES` says; front. What is NaN has no bar. `machine` says how costs were measured.
    """
    legend = [_describe(point) for _, point in points.iterrows()]
    lines = sum(label.count("\n") + 1 for label in legend)
    figure = Figure((WIDTH, 2.9 + 0.13 * lines), layout="constrained")
    panel = figure.subplots()
    front = points[points["front"]].sort_values(["cost", "value"])
    panel.plot(front["cost"], front["value"], color="#999999", drawstyle="steps-post", zorder=1)
    styles = choose_styles(points["model"].tolist())
    for (_, point), style, label in zip(points.iterrows(), styles, legend, strict=True):
        colour, place = style["color"], (point["cost"], point["value"])
        across, up = _measure_bar(point), None if pd.isna(point["spread"]) else point["spread"]
        panel.errorbar(*place, xerr=across, yerr=up, fmt="none", ecolor=colour, elinewidth=0.7, capsize=2, zorder=2)
        marker, face = ("o", colour) if point["front"] else ("s", "white")
        panel.plot(*place, marker, color=colour, markerfacecolor=face, markersize=5, label=label, zorder=3)
    halo = [withStroke(linewidth=2, foreground="white")]
    for _, point in front.iterrows():
        panel.annotate(
            name_point(point["detector"]),
            (point["cost"], point["value"]),
            xytext=(4, 5),
            textcoords="offset points",
            fontsize=7,
            path_effects=halo,
        )
    panel.margins(x=0.12, y=0.14)
    if points["cost"].max() > WIDE * points["cost"].min() > 0:
        panel.set_xscale("log")
    panel.set_xlabel(AXES[x])
    panel.set_ylabel(f"{name_metric(metric)} (%)")
    panel.set_title(describe_points(points, metric, machine), fontsize=6.5)
    figure.legend(loc="outside lower center", fontsize=6.5)
    return figure


def _describe(point: pd.Series) -> str:
    """Return a point's line of the legend: its short name, and what that stands for."""
    return wrap_text(": ".join(filter(None, [name_point(point["detector"]), point["settings"]])), 84)


def _measure_bar(point: pd.Series) -> list[list[float]] | None:
    if pd.isna(point["low"]) or point["low"] == point["high"]:
        return None
    return [[point["cost"] - point["low"]], [point["high"] - point["cost"]]]


def describe_points(points: pd.DataFrame, metric: str, machine: str) -> str:
    """Return what stands above a figure: what the means are over, what the bars are, and how costs were measured."""
    count = len(points["categories"].iloc[0].split(" "))
    over = f"{count} categor{'y' if count == 1 else 'ies'}"
    what = f"{points['dataset'].iloc[0]}: {name_metric(metric)}, mean over {over} and seeds"
    return "\n".join([
        f"{what}; bars: standard deviation over seeds",
        wrap_text(f"Cost: {machine}", 96),
        "Filled, joined: the Pareto front, none is as cheap and as good and better in one",
    ])  # fmt: skip


def name_point(name: str) -> str:
    """Return a short name with the detector as its paper writes it: RD 2 for rd 2."""
    model, _, number = name.partition(" ")
    return f"{name_detector(model)} {number}".strip()
