"""Pixel scores on their way to the metrics: kept as they are, or sketched in bounded memory, behind one interface.

`add` takes pixels, `curve` is the curve over all that were added, or why there is none, and `measure` gives metrics.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from kdad.errors import UserError
from kdad.metrics.pro import LIMIT
from kdad.metrics.ranking import Curve, area, auroc, average_precision, f1_max, rank_curve
from kdad.metrics.sketch import Sketch

Values = dict[str, float | str | None]  # by the name of the metric; an undefined one's cause is under `<metric>_reason`
Metrics = Mapping[str, Callable[[Curve], float]]
OF_PIXELS: Metrics = {
    "pixel_auroc": auroc,
    "pro": partial(area, limit=LIMIT),
    "pixel_ap": average_precision,
    "pixel_f1_max": f1_max,
}


def list_metrics(pro_limits: Sequence[float] = ()) -> Metrics:
    """Return the metrics of pixels by name: `OF_PIXELS`, and `pro_<limit>` for each further limit of PRO.

    Raises `UserError` for what is no list of false-positive rates in (0, 1].
    """
    if isinstance(pro_limits, str) or not isinstance(pro_limits, Sequence):
        raise UserError(f"metrics.pro_limits={pro_limits}: give a list, such as [0.3,0.05]")
    for limit in pro_limits:
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit <= 1:
            raise UserError(
                f"metrics.pro_limits={list(pro_limits)}: give false-positive rates in (0, 1], not {limit!r}"
            )
    further = {f"pro_{float(limit)}": partial(area, limit=float(limit)) for limit in pro_limits if limit != LIMIT}
    return {**OF_PIXELS, **further}


@dataclass(frozen=True)
class ExactPixels:
    """All pixel scores of a test as they are, ranked exactly."""

    parts: tuple[tuple[NDArray, NDArray, NDArray], ...] = ()  # normal scores, anomalous scores, weights of these
    ascending: bool = False  # whether the normal scores are sorted already

    def add(self, normal: NDArray, anomalous: NDArray, weights: NDArray) -> "ExactPixels":
        """Return all pixels so far with these added: normal scores (n,), anomalous ones (m,) and their weights (m,)."""
        return ExactPixels((*self.parts, (normal, anomalous, weights)), self.ascending)

    @cached_property
    def curve(self) -> Curve | str:
        """The region-weighted curve, or why there is none. Raises ValueError if a score is NaN or infinite."""
        if not self.parts:
            return "the data set has no masks"
        normal, anomalous, weights = (_join(arrays) for arrays in zip(*self.parts, strict=True))
        return rank_or_reason(normal, anomalous, weights, "pixel in any mask", self.ascending and len(self.parts) == 1)

    def measure(self, metrics: Metrics = OF_PIXELS) -> Values:
        """Return the values of `metrics`, in [0, 1]."""
        return evaluate(metrics, self.curve)


@dataclass(frozen=True)
class SketchedPixels:
    """Pixel scores in a sketch of at most `cells` cells per copy, with known error bounds on the metrics.

    The pixel scores of a test of 100,000 images do not fit into memory: at 256 px they are 26 GB, and ranking them
    takes several times as much.
    """

    sketch: Sketch
    cells: int

    def add(self, normal: NDArray, anomalous: NDArray, weights: NDArray) -> "SketchedPixels":
        """Return all pixels so far with these added: normal scores (n,), anomalous ones (m,) and their weights (m,).

        Raises ValueError if a score is NaN or infinite.
        """
        return SketchedPixels(self.sketch.extend(normal, anomalous, weights, self.cells), self.cells)

    @cached_property
    def curve(self) -> Curve | str:
        """A region-weighted curve between those that bound the exact one, or why there is none."""
        for kind, cells in (("anomalous", self.sketch.anomalous_low), ("normal", self.sketch.normal_low)):
            if not cells.size:
                return f"no {kind} pixel in any mask"
        return self.sketch.curve

    def measure(self, metrics: Metrics = OF_PIXELS) -> Values:
        """Return the middle between the least and the greatest possible value of each of `metrics`, in [0, 1].

        `<metric>_error` is half their distance: the exact value is at most so far away.
        """
        if isinstance(self.curve, str):
            return evaluate(metrics, self.curve)
        # These cannot fall when an anomalous pixel is raised or a normal one lowered.
        rising = {name: metric for name, metric in metrics.items() if metric is not average_precision}
        bounds = self.sketch.bound_metrics(rising)
        if len(rising) < len(metrics):
            bounds["pixel_ap"] = self.sketch.bound_average_precision()
        values: Values = {name: (least + greatest) / 2 for name, (least, greatest) in bounds.items()}
        return values | {f"{name}_error": (greatest - least) / 2 for name, (least, greatest) in bounds.items()}


def rank_or_reason(
    normal: NDArray, anomalous: NDArray, weights: NDArray | None, what: str, ascending: bool = False
) -> Curve | str:
    """Rank scores if there are some of both kinds, else say which kind is missing; `what` names the items.

    Returns a curve, or the reason why there is none. Raises ValueError if a score is NaN or infinite.
    """
    for kind, scores in (("anomalous", anomalous), ("normal", normal)):
        if not len(scores):
            return f"no {kind} {what}"
    return rank_curve(normal, anomalous, weights, ascending=ascending)


def evaluate(metrics: Mapping[str, Callable[[Curve], float]], curve: Curve | str) -> Values:
    """Return the metrics of a curve or, where `curve` is a reason why there is none, None and that reason for each."""
    values: Values = {}
    for name, metric in metrics.items():
        if isinstance(curve, Curve):
            values[name] = metric(curve)
        else:
            values |= {name: None, f"{name}_reason": curve}
    return values


def _join(arrays: tuple[NDArray, ...]) -> NDArray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)  # one alone is not copied: it may be large
