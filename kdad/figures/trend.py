"""What a number of the configuration does to metrics: lines over training size, contamination, image size, ..."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdad.figures.style import PAGE, choose_styles, use_style
from kdad.results.levels import measure_levels
from kdad.results.words import name_metric

WIDE = 20  # values that span more than this factor stand on a logarithmic axis


@use_style()
def draw_trend(table: pd.DataFrame, key: str, metrics: Sequence[str]) -> Figure:
    """Draw a panel for each metric: a line for each detector and setting, with the spread over seeds as its band."""
    figure = Figure((PAGE, 2.3), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    lines = list(dict.fromkeys(table["line"]))
    models = [table.loc[table["line"] == line, "model"].iloc[0] for line in lines]
    for panel, metric in zip(panels, metrics, strict=True):
        for line, style in zip(lines, choose_styles(models), strict=True):
            measured = measure_levels(table[table["line"] == line], metric)
            panel.plot(measured.index, measured["mean"], marker="o", markersize=3, label=line, **style)
            mean, spread = measured["mean"], measured["spread"].fillna(0)
            panel.fill_between(mean.index, mean - spread, mean + spread, color=style["color"], alpha=0.15, lw=0)
        panel.set_title(f"{name_metric(metric)} (%)")
        _scale(panel, np.unique(table["level"]))
    for panel in panels:
        panel.set_xlabel(key, fontsize=7)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(lines), 4))
    return figure


def _scale(panel: Axes, levels: np.ndarray) -> None:
    """Put the levels on the axis, logarithmically where they span a wide range of positive numbers."""
    if levels[0] > 0 and levels[-1] / levels[0] >= WIDE:
        panel.set_xscale("log")
    panel.minorticks_off()
    panel.set_xticks(levels, [f"{level:g}" for level in levels])
