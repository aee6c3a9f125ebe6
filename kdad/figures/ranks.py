"""Critical-difference diagrams: mean ranks of detectors, with a bar over those that a test does not tell apart."""

import math

import pandas as pd
from matplotlib.figure import Figure

from kdad.errors import UserError
from kdad.figures.style import COLUMN, find_colour, use_style
from kdad.results.comparison import Ranking, rank_detectors
from kdad.results.words import name_metric

STEP = 0.16  # inches from line to line
FREE = 0.4  # where the axis begins: left of rank 1 there is room for names


@use_style()
def draw_ranks(named: dict[str, pd.DataFrame], metric: str) -> Figure:
    """Draw the detectors' mean ranks in one metric over the categories that all have, 1 (the best) on the left.

    Bars join those whose ranks differ by less than Nemenyi's critical difference (Demsar, JMLR 7, 2006, Fig. 1). Raises
    `UserError` where fewer than two detectors share a category.
    """
    ranking = rank_detectors(named, metric)
    if ranking is None:
        raise UserError(f"{metric}: no category that at least two detectors or settings were all run on")
    names = list(ranking.ranks)
    count, half = len(names), (len(names) + 1) // 2
    lines = len(ranking.alike) + half + 1.4
    figure = Figure((COLUMN, STEP * lines + 0.55), layout="constrained")
    panel = figure.subplots()
    panel.set_xlim(FREE, count + 1 - FREE)
    panel.set_ylim(lines, 0)
    panel.xaxis.tick_top()
    panel.set_xticks(range(1, count + 1))
    panel.yaxis.set_visible(False)
    panel.spines[["left", "bottom"]].set_visible(False)
    panel.spines["top"].set_visible(True)
    for place, group in enumerate(ranking.alike):
        ends = [ranking.ranks[group[0]] - 0.03, ranking.ranks[group[-1]] + 0.03]
        panel.plot(ends, [0.8 + place] * 2, color="black", linewidth=3, solid_capstyle="butt")
    for place, name in enumerate(names):
        left = place < half
        height = len(ranking.alike) + 1.2 + (place if left else count - 1 - place)
        edge, side = (FREE, "left") if left else (count + 1 - FREE, "right")
        rank, colour = ranking.ranks[name], find_colour(name.split(" ")[0])
        panel.plot([rank, rank, edge], [0, height, height], color=colour, linewidth=0.9, clip_on=False)
        panel.text(
            edge, height - 0.1, f"{name}  {rank:.2f}", ha=side, va="bottom", fontsize=6.5, color=colour, zorder=3,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},  # over the lines of other detectors
        )  # fmt: skip
    panel.set_title(describe(ranking, metric), fontsize=7)
    return figure


def describe(ranking: Ranking, metric: str) -> str:
    """Return the diagram's title: metric, categories, Friedman's p and the critical difference."""
    several = "category" if ranking.categories == 1 else "categories"
    said = f"{name_metric(metric)}: mean rank over {ranking.categories} {several}"
    if math.isnan(ranking.critical):
        return f"{said}; too few for a test"
    p = "p < 0.001" if ranking.p < 0.001 else f"p = {ranking.p:.3f}"
    return f"{said}\nFriedman {p}, critical difference {ranking.critical:.2f}"
