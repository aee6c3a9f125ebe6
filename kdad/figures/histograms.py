"""Histograms of the scores of normal and anomalous test images, as in RD, Fig. 5."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kdad.errors import UserError
from kdad.figures.style import ANOMALOUS, COLUMN, NORMAL, PAGE, use_style, wrap_text
from kdad.results.series import Series, read_scores
from kdad.results.words import describe_metrics

ACROSS = 3  # panels
KINDS = (("normal", NORMAL), ("anomalous", ANOMALOUS))  # by label


@use_style()
def draw_histograms(
    shown: list[Series], bins: int = 30, log: bool = False, metrics: Sequence[str] = ("image_auroc",)
) -> Figure:
    """Draw one panel per run: counts of images over the image score as the detector gives it, and metrics in percent.

    The bins are common to both kinds of image and to the seeds of one configuration; other scores have other scales.
    `log` makes them equally wide on a logarithmic axis, which scores that are products, such as STPM's, ask for.

    Raises `UserError` for fewer bins than one, and with `log` for scores of 0 or below.
    """
    if bins < 1:
        raise UserError(f"--bins {bins}: give a number of bins, at least 1")
    panels = []
    for one in shown:
        tables = [read_scores(run) for _, run in one.runs.iterrows()]
        edges = _find_edges(np.concatenate([table["score"] for table in tables]), bins, log, one)
        panels += [
            (one.name_run(run, len(tables) > 1), run, table, edges)
            for (_, run), table in zip(one.runs.iterrows(), tables, strict=True)
        ]
    across = min(ACROSS, len(panels))
    rows = -(-len(panels) // across)
    figure = Figure((COLUMN if across == 1 else PAGE, 2.0 * rows + 0.2), layout="constrained")
    axes = figure.subplots(rows, across, squeeze=False).ravel()
    for panel, (name, run, table, edges) in zip(axes, panels, strict=False):
        heights = [0.0]
        for label, (kind, colour) in enumerate(KINDS):
            scores = table.loc[table["label"] == label, "score"]
            counts, *_ = panel.hist(
                scores, edges, color=colour, alpha=0.55, edgecolor=colour, linewidth=0.4,
                label=f"{kind} ({len(scores)})",
            )  # fmt: skip
            heights.append(counts.max())
        panel.set_ylim(0, (1.4 + 0.1 * (-(-len(metrics) // 2) - 1)) * max(heights))  # room for the legend
        panel.legend(
            loc="upper center", ncols=2, title=describe_metrics(run, metrics, 2), borderaxespad=0,
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
