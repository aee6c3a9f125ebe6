"""How well scores rank anomalous items above normal ones: AUROC, PRO, average precision and F1-max from one sort.

Pure NumPy. Only the order of the scores is looked at: no sigmoid, no bins, no downcast. Items are counted in int64 and
divided once, in float64, at the end: float32 cannot count past 2^24, which a few hundred images' pixels exceed.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Curve(NamedTuple):
    """Vertices of a receiver operating characteristic, from "nothing is called anomalous" to "everything is".

    Each distinct anomalous score v, highest first, adds two vertices: the items > v, then the items >= v. In between, a
    normal item tied with an anomalous one makes the segment slope, which is worth half. Thresholds that only normal
    items reach lie on the horizontal segments, so leaving them out changes nothing.
    """

    false_positives: NDArray[np.int64]  # (V,) normal items called anomalous, 0 ... N0
    true_positives: NDArray[np.int64]  # (V,) anomalous items called anomalous, 0 ... N1
    covered: NDArray[np.float64]  # (V,) sum of the weights of those anomalous items

    @property
    def x(self) -> NDArray[np.float64]:
        """(V,) false-positive rate, 0 ... 1."""
        return self.false_positives / self.false_positives[-1]

    @property
    def y(self) -> NDArray[np.float64]:
        """(V,) weighted true-positive rate, 0 ... 1."""
        return self.covered / self.covered[-1]

    def drop_weights(self) -> "Curve":
        """Return the curve of the same thresholds with every anomalous item weighing the same."""
        return self._replace(covered=self.true_positives.astype(np.float64))


def rank_curve(
    normal_scores: ArrayLike,
    anomalous_scores: ArrayLike,
    weights: ArrayLike | None = None,
    normal_counts: ArrayLike | None = None,
    anomalous_counts: ArrayLike | None = None,
    ascending: bool = False,
) -> Curve:
    """Rank scores of any shape, where higher means more anomalous. Returns the curve of all thresholds.

    `weights` has one positive number per anomalous score; without it all weigh the same. Counts say how many items each
    score stands for, whose weight is then that of all of them; without counts, one. `ascending` says that the normal
    scores are sorted already. The result does not depend on
    the order of the items. Raises ValueError if a side is empty or a score is NaN or infinite.
    """
    # The many normal scores need only be sorted, which is far cheaper than an argsort with gathers.
    normal = np.ravel(normal_scores) if ascending else np.sort(np.ravel(normal_scores))  # (N0,)
    anomalous = np.ravel(anomalous_scores)  # (N1,)
    weights = np.ones(anomalous.size) if weights is None else np.ravel(weights).astype(np.float64)
    # Weights break ties, so that the float sum below has one order whatever the order of the items.
    order = np.lexsort((weights, anomalous))[::-1]
    anomalous = anomalous[order]
    _require_finite(normal, anomalous)

    last_of_tie = np.flatnonzero(np.append(anomalous[1:] != anomalous[:-1], True))
    thresholds = anomalous[last_of_tie]  # (T,) distinct, descending
    below, not_above = (np.searchsorted(normal, thresholds, side=side) for side in ("left", "right"))
    normals, hits = normal.size, last_of_tie + 1
    if normal_counts is not None:
        before = np.append(0, np.cumsum(np.ravel(normal_counts)[np.argsort(np.ravel(normal_scores))]))
        normals, below, not_above = before[-1], before[below], before[not_above]
    if anomalous_counts is not None:
        hits = np.cumsum(np.ravel(anomalous_counts)[order])[last_of_tie]
    above, at_least = normals - not_above, normals - below
    covered = np.cumsum(weights[order])[last_of_tie]
    return Curve(
        false_positives=np.concatenate(([0], _interleave(above, at_least), [normals])),
        true_positives=np.concatenate(([0], _interleave(_shift(hits), hits), hits[-1:])),
        covered=np.concatenate(([0.0], _interleave(_shift(covered), covered), covered[-1:])),
    )


def area(curve: Curve, limit: float = 1.0) -> float:
    """Return the area under a curve up to the false-positive rate `limit` in (0, 1], divided by it: in [0, 1].

    The trapezoid rule, with the curve interpolated linearly at the limit. Raises ValueError for another limit.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit is a false-positive rate in (0, 1], not {limit}")
    fp, covered = curve.false_positives, curve.covered
    fp_limit = limit * fp[-1]
    inside = np.searchsorted(fp, fp_limit, side="right")
    fp = np.append(fp[:inside], fp_limit)
    covered = np.append(covered[:inside], np.interp(fp_limit, curve.false_positives, curve.covered))
    doubled = np.sum(np.diff(fp) * (covered[1:] + covered[:-1]))
    return float(doubled / (2 * fp_limit * curve.covered[-1]))


def auroc(curve: Curve) -> float:
    """Return the probability that an anomalous item scores higher than a normal one, ties counting half.

    Weights are ignored.

    Examples:
        >>> auroc(rank_curve(normal_scores=[0.1, 0.3, 0.5], anomalous_scores=[0.4, 0.5]))  # 4.5 of 6 pairs
        0.75
    """
    return area(curve.drop_weights())


def average_precision(curve: Curve) -> float:
    """Return the mean precision over the anomalous items, in [0, 1]: the sum of (R_t - R_{t-1}) P_t.

    It is not interpolated.
    """
    fp, tp = _count_at_thresholds(curve)
    return float(np.sum(np.diff(tp, prepend=0) * (tp / (tp + fp))) / tp[-1])


def f1_max(curve: Curve) -> float:
    """Return the highest F1 = 2 TP / (2 TP + FP + FN) of all thresholds, in [0, 1]."""
    fp, tp = _count_at_thresholds(curve)
    return float(np.max(2 * tp / (tp + fp + tp[-1])))


def thin(curve: Curve, vertices: int = 2000) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Thin a curve for storage and pictures, never for the metrics.

    Returns x and y, each (V,), of at most `vertices` (an even number) of its vertices.

    The curve is cut into `vertices / 2 - 1` stretches, equally long when measured in x + y, and of each the first and
    the last vertex stay. So the ends of the curve stay, long straight segments stay exact, and a vertex that is left
    out lies between two that stay in the same stretch (at 2000: less than 0.0021 apart in x + y).
    """
    x, y = curve.x, curve.y
    if len(x) <= vertices:
        return x, y
    # Both coordinates rise, hence so does their sum, from exactly 0 to exactly 2.
    first = np.searchsorted(x + y, np.linspace(0, 2, vertices // 2))
    kept = np.union1d(first, np.maximum(first - 1, 0))
    return x[kept], y[kept]


def _count_at_thresholds(curve: Curve) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return false and true positives (T,) when everything >= v is called anomalous, v descending."""
    return curve.false_positives[2:-1:2], curve.true_positives[2:-1:2]


def _shift(values: NDArray) -> NDArray:
    return np.concatenate(([0], values[:-1]))


def _interleave(first: NDArray, second: NDArray) -> NDArray:
    return np.column_stack((first, second)).ravel()


def _require_finite(normal: NDArray, anomalous: NDArray) -> None:
    """Raise ValueError where the ascending scores are empty or not finite; NaN sorts last, so both ends suffice."""
    if not normal.size or not anomalous.size:
        raise ValueError(f"a curve needs scores of both kinds: {normal.size} normal, {anomalous.size} anomalous given")
    if not np.isfinite([normal[0], normal[-1], anomalous[0], anomalous[-1]]).all():
        bad, bad_anomalous = (np.count_nonzero(~np.isfinite(scores)) for scores in (normal, anomalous))
        raise ValueError(
            f"scores must be finite: {bad} of {normal.size} normal and {bad_anomalous} of {anomalous.size} "
            "anomalous ones are NaN or infinite"
        )
