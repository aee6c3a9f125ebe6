"""Pixel scores in bounded memory: two shortened copies that bracket the truth, and what follows for the metrics.

In the low copy scores were only ever lowered, each to another score that occurred; in the high copy only raised. Which
neighbours become one follows from the order of the scores and the number and weight of their pixels alone, so that a
strictly increasing function of all scores changes no result. A score that many pixels share, or one of a region of
few pixels, which weighs much in PRO, stays where it is.

AUROC, PRO and F1-max cannot fall when an anomalous pixel is raised or a normal one lowered. So the exact value is at
least that of (normal high, anomalous low) and at most that of (normal low, anomalous high).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdad.metrics.ranking import Curve, rank_curve

Cells = NDArray[np.float64]  # (2 or 3, n): scores, how many pixels each holds, and the sum of their weights


class Sketch(NamedTuple):
    """The low and high copies, ascending by score; see the module. Counts are exact in float64, up to 2^53 pixels."""

    normal_low: Cells = np.empty((2, 0))
    normal_high: Cells = np.empty((2, 0))
    anomalous_low: Cells = np.empty((3, 0))
    anomalous_high: Cells = np.empty((3, 0))

    def extend(self, normal: NDArray, anomalous: NDArray, weights: NDArray, cells: int) -> "Sketch":
        """Return a sketch with these pixels added: normal scores (n,), anomalous ones (m,) and their weights (m,).

        Each copy has at most `cells` cells. Raises ValueError if a score is NaN or infinite.
        """
        return Sketch(
            *_extend(self.normal_low, self.normal_high, [normal], cells),
            *_extend(self.anomalous_low, self.anomalous_high, [anomalous, weights], cells),
        )

    @property
    def curve(self) -> Curve:
        """A curve between the two that bound the exact one: that of both low copies."""
        return _rank_cells(self.normal_low, self.anomalous_low)

    def bound_metrics(self, rising: Mapping[str, Callable[[Curve], float]]) -> dict[str, tuple[float, float]]:
        """Return the least and greatest possible value of each metric; all must rise as AUROC does (see the module)."""
        least = _evaluate(rising, _rank_cells(self.normal_high, self.anomalous_low))
        greatest = _evaluate(rising, _rank_cells(self.normal_low, self.anomalous_high))
        return {name: (least[name], greatest[name]) for name in rising}

    def bound_average_precision(self) -> tuple[float, float]:
        """Return the least and the greatest possible average precision.

        It may fall when one of several tied scores is raised, and so is not among the rising metrics.

        The k-th highest anomalous score lies between the k-th highest of the low and of the high copy. That bounds the
        true and the false positives at this score, hence its precision, and the mean over k is the metric.
        """
        low, high = self.anomalous_low[:, ::-1], self.anomalous_high[:, ::-1]
        to_low, to_high = np.cumsum(low[1]), np.cumsum(high[1])
        last = np.union1d(to_low, to_high)  # (S,) of each stretch of ranks k along which neither copy's score changes
        first = np.append(0, last[:-1]) + 1
        lower, upper = low[0, np.searchsorted(to_low, last)], high[0, np.searchsorted(to_high, last)]

        def mean(hits: NDArray, false_alarms: NDArray) -> float:
            return float(np.sum((last - first + 1) * (hits / (hits + false_alarms))) / last[-1])

        fewest_hits = np.maximum(first, _count_at_least(self.anomalous_low, upper))
        least = mean(fewest_hits, _count_at_least(self.normal_high, lower))
        return least, mean(_count_at_least(self.anomalous_high, lower), _count_at_least(self.normal_low, upper))


def _extend(low: Cells, high: Cells, pixels: list[NDArray], cells: int) -> tuple[Cells, Cells]:
    """Add pixels to both copies of one kind. `pixels`: scores (n,), and their weights if they have any."""
    scores, *weights = pixels
    for start in range(0, max(len(scores), 1), cells):
        part = scores[start : start + cells]
        if not np.isfinite(part).all():
            raise ValueError(f"scores must be finite: {np.count_nonzero(~np.isfinite(part))} are NaN or infinite")
        # Sorted here already if that is all there is to do: the fast sort of floats leaves little to the stable one.
        part = part if weights else np.sort(part)
        new = np.vstack((part, np.ones(len(part)), *(w[start : start + cells] for w in weights)))
        low = _shorten(np.hstack((low, new)), cells, raised=False)
        high = _shorten(np.hstack((high, new)), cells, raised=True)
    return low, high


def _shorten(unsorted: Cells, cells: int, raised: bool) -> Cells:
    """Make one cell of each distinct score, ascending, then join neighbours until there are at most `cells`."""
    if not unsorted.size:
        return unsorted
    scores, *amounts = unsorted[:, np.argsort(unsorted[0], kind="stable")]
    first = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))
    if len(first) > cells:
        first = first[_choose_apart(amounts, first, cells)]
    joined = np.append(first[1:], len(scores)) - 1 if raised else first
    return np.vstack((scores[joined], *(np.add.reduceat(amount, first) for amount in amounts)))


def _choose_apart(amounts: list[NDArray], first: NDArray[np.intp], cells: int) -> NDArray[np.bool_]:
    """Choose which cells, beginning at `first`, are not merged with the one below: at most `cells` of them.

    Cells hold about equal shares of the pixels, of the logarithm of a pixel's rank from the top (the first false
    positives decide about precision) and of the weights.
    """
    from_top = [np.append(np.cumsum(amount[::-1])[::-1][first], 0) for amount in amounts]
    share = np.log1p(from_top[0]) / np.log1p(from_top[0][0]) + sum(values / values[0] for values in from_top)
    held = share[:-1] - share[1:]
    limit = 2.0 ** np.floor(np.log2(share[0] / cells))  # a power of two, so that full cells stay as they are for long
    while True:
        cell, full = np.floor(share[:-1] / limit), held > limit
        apart = np.append(True, (cell[1:] != cell[:-1]) | full[1:] | full[:-1])
        if np.count_nonzero(apart) <= cells:
            return apart
        limit *= 2


def _rank_cells(normal: Cells, anomalous: Cells) -> Curve:
    return rank_curve(normal[0], anomalous[0], anomalous[2], normal[1].astype(np.int64), anomalous[1].astype(np.int64))


def _evaluate(metrics: Mapping[str, Callable[[Curve], float]], curve: Curve) -> dict[str, float]:
    return {name: metric(curve) for name, metric in metrics.items()}


def _count_at_least(cells: Cells, scores: NDArray) -> NDArray:
    """Return how many pixels score at least so much, for each of the scores."""
    below = np.append(0, np.cumsum(cells[1]))
    return below[-1] - below[np.searchsorted(cells[0], scores)]
