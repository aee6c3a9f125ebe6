"""Histograms of the scores of normal and anomalous test images, as in RD, Fig. 5."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kdad.errors import UserError
from kdad.figures.style import ANOMALOUS, COLUMN, NORMAL, PAGE, use_style, wrap_text
from kdad.results.series import Series, read_scores
from kdad.results.words import describe_metrics

ACROSS, DOWN = 3, 8  # panels of a figure: more rows fit on no page, and matplotlib lays a thousand out for minutes
KINDS = (("normal", NORMAL), ("anomalous", ANOMALOUS))  # by label


class Panel(NamedTuple):
    """One run's histogram: its name, its row of results, its table of scores, and the edges of the bins."""

    name: str
    run: pd.Series
    scores: pd.DataFrame
    edges: NDArray[np.float64]


def draw_histograms(
    shown: list[Series], bins: int = 30, log: bool = False, metrics: Sequence[str] = ("image_auroc",)
) -> Iterator[Figure]:
    """Draw one panel per run: counts of images over the image score as the detector gives it, and metrics in percent.

    The bins are common to both kinds of image and to the seeds of one configuration; other scores have other scales.
    Where the detector decides, a dashed line is its threshold. `log` makes bins equally wide on a logarithmic axis,
    which scores that are products, such as STPM's, ask for.

    Yields figures of at most 24 panels. Raises `UserError` for fewer bins than one, and with `log` for scores of 0 or
    below.
    """
    if bins < 1:
        raise UserError(f"--bins {bins}: give a number of bins, at least 1")
    panels: list[Panel] = []
    for one in shown:
        tables = [read_scores(run) for _, run in one.runs.iterrows()]
        edges = _find_edges(np.concatenate([table["score"] for table in tables]), bins, log, one)
        panels += [
            Panel(one.name_run(run, len(tables) > 1), run, table, edges)
            for (_, run), table in zip(one.runs.iterrows(), tables, strict=True)
        ]
    for start in range(0, len(panels), ACROSS * DOWN):
        yield _draw_panels(panels[start : start + ACROSS * DOWN], log, metrics)


@use_style()
def _draw_panels(panels: Sequence[Panel], log: bool, metrics: Sequence[str]) -> Figure:
    across = min(ACROSS, len(panels))
    rows = -(-len(panels) // across)
    figure = Figure((COLUMN if across == 1 else PAGE, 2.0 * rows + 0.2), layout="constrained")
    axes = figure.subplots(rows, across, squeeze=False).ravel()
    for panel, (name, run, table, edges) in zip(axes, panels, strict=False):
        heights = [0.0]
        for label, (kind, colour) in enumerate(KINDS):
            scores = table.loc[table["label"] == label, "score"]
            counts, _ = np.histogram(scores, edges)
            panel.stairs(counts, edges, fill=True, alpha=0.55, color=colour, label=f"{kind} ({len(scores)})")
            heights.append(counts.max())
        if pd.notna(threshold := run.get("image_threshold")) and not (log and threshold <= 0):
            panel.axvline(threshold, color="black", linestyle="--", linewidth=0.8, ymax=0.65, label="threshold")
        lines = -(-len(metrics) // 2) + (across == ACROSS)  # the threshold has no place beside the kinds there
        panel.set_ylim(0, (1.4 + 0.15 * (lines - 1)) * max(heights))  # room for the legend
        panel.legend(
            loc="upper center", ncols=2 + (across < ACROSS), title=describe_metrics(run, metrics, 2), borderaxespad=0,
            columnspacing=1, handlelength=1.2,
        )  # fmt: skip
        panel.set_title(wrap_text(name, 60 if across == 1 else 96 // across))
        panel.set_xlabel("image score")
        panel.set_xscale("log" if log else "linear")
        panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    for panel in axes[::across]:
        panel.set_ylabel("test images")
    for panel in axes[len(panels) :]:
        panel.remove()
    return figure


def _find_edges(scores: NDArray[np.float64], bins: int, log: bool, one: Series) -> NDArray[np.float64]:
    if not log:
        return np.histogram_bin_edges(scores, bins)
    if scores.min() <= 0:
        raise UserError(f"--log: {one.runs['folder'].iloc[0]} or a seed beside it has scores of 0 or below")
    edges = np.exp(np.histogram_bin_edges(np.log(scores), bins))
    edges[[0, -1]] = min(edges[0], scores.min()), max(edges[-1], scores.max())  # the exponential's rounding
    return edges
