"""When a score is called anomalous: thresholds from normal images alone, and scores made comparable by them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kdad.errors import UserError

RULES = ("quantile", "mean_std", "max")  # of normal images
BY_F1 = "f1"  # of normal and anomalous ones, which `kdad calibrate` alone can be given
SOURCES = {
    "calibration": "normal images held out for this alone",
    "validation": "normal images held out to validate on",
    "training": "the training images themselves, whose scores flatter: expect more false alarms than promised",
    "given": "normal images that were given to kdad calibrate",
    "given_training": "given images, some of which it was trained on: expect more false alarms than promised",
}
"""Where the images of thresholds may come from: `Decision.source` -> what that means."""
Number = TypeVar("Number", float, NDArray[Any])


MOST_IMAGES = 10**12  # more are no number of images


@dataclass(frozen=True)
class Scale:
    """A scale of scores: what is normal, and where the anomalous begins.

    `threshold` is what an anomalous score exceeds, `centre` the median score of normal images, or of their pixels.
    """

    threshold: float
    centre: float

    @property
    def unit(self) -> float:
        """What a score is measured by: from what is normal to the threshold. Above 0."""
        unit = self.threshold - self.centre
        return unit if unit > 0 else abs(self.threshold) or 1.0

    def normalise(self, score: Number) -> Number:
        """Map scores onto (0, 1): 0.25 at the centre of normal images, 0.5 at the threshold; the order stays.

        It is (1 + u / (1 + |u|)) / 2 with u = (score - threshold) / (threshold - centre): how far above the threshold,
        in units that normal images set, so that detectors can be compared. Where centre and threshold coincide, the
        unit is the threshold itself.

        Examples:
            >>> scale = Scale(threshold=2.0, centre=1.0)
            >>> [scale.normalise(score) for score in (1.0, 2.0, 3.0)]
            [0.25, 0.5, 0.75]
        """
        u = (score - self.threshold) / self.unit
        return (1 + u / (1 + abs(u))) / 2


@dataclass(frozen=True)
class Decision:
    """Two thresholds, of image scores and of pixels, and where they come from.

    An image is anomalous whose score exceeds `image_threshold`, a pixel whose value exceeds `pixel_threshold`.
    `image_centre` is the median of the normal images' scores, `pixel_centre` the median of the medians of their
    pixels. `rule` is quantile, mean_std, max or f1; `false_alarms` the share of normal images that quantile means to
    call anomalous, `k` the standard deviations of mean_std. `n_images` normal images were used, from `source`, one of
    `SOURCES`. `setting` are the values that change scores without training: the thresholds hold for these alone.
    `uses_anomalous`: anomalous images had a say, too.
    """

    rule: str
    false_alarms: float
    k: float
    image_threshold: float
    image_centre: float
    pixel_threshold: float
    pixel_centre: float
    n_images: int
    source: str
    setting: Mapping[str, Any]
    uses_anomalous: bool = False

    @property
    def image(self) -> Scale:
        """The scale of image scores."""
        return Scale(self.image_threshold, self.image_centre)

    @property
    def pixel(self) -> Scale:
        """The scale of an anomaly map's pixels."""
        return Scale(self.pixel_threshold, self.pixel_centre)

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, as a checkpoint holds them."""
        return asdict(self) | {"setting": dict(self.setting)}

    @classmethod
    def from_plain(cls, values: Any) -> "Decision":
        """Return the decision that `to_plain` gave. Raises `UserError` where the values are not such ones."""
        names = {field.name for field in fields(cls)}
        numbers = ("false_alarms", "k", "image_threshold", "image_centre", "pixel_threshold", "pixel_centre")
        if not (
            isinstance(values, dict)
            and names - {"uses_anomalous"} <= set(values) <= names
            and all(isinstance(values[name], float) and math.isfinite(values[name]) for name in numbers)
            and values["rule"] in (*RULES, BY_F1)
            and values["source"] in SOURCES
            and type(values["n_images"]) is int
            and 0 < values["n_images"] < MOST_IMAGES
            and 0 < values["false_alarms"] < 1
            and isinstance(values["setting"], dict)
        ):
            raise UserError("the decision in this checkpoint cannot be read: kdad calibrate sets another")
        return cls(**values)

    def describe(self) -> str:
        """Return a sentence on the rule, its images and what it can promise."""
        rules = {
            "quantile": f"the quantile that {self.false_alarms:.3g} of normal images exceed",
            "mean_std": f"mean + {self.k:g} standard deviations",
            "max": "the largest score",
            BY_F1: "the best F1 on normal and anomalous images that were given",
        }
        said = f"threshold {self.image_threshold:.6g}: {rules[self.rule]}, of {self.n_images} images, "
        said += SOURCES[self.source]
        if (promise := self.promise()) is not None:
            said += f". Expected false alarms on further normal images: {promise:.3g}"
            if self.rule == "quantile" and promise > self.false_alarms:
                said += f", since {self.n_images} images cannot promise less than 1 in {self.n_images + 1}"
        return said

    def promise(self) -> float | None:
        """Return the expected share of false alarms among further normal images; None where there is no such bound.

        That is for mean_std and f1, and for images that were trained on. It holds where further images are exchangeable
        with these (Vovk et al., "Algorithmic Learning in a Random World", 2005): n images can promise no less than
        1 / (n + 1).
        """
        if self.rule not in ("quantile", "max") or self.source in ("training", "given_training"):
            return None
        n = self.n_images
        return (n + 1 - (n if self.rule == "max" else find_rank(n, self.false_alarms))) / (n + 1)


def check_rule(rule: str, false_alarms: float, k: float) -> None:
    """Raise `UserError` for a rule that there is not, or a number outside its range."""
    if rule not in RULES:
        raise UserError(f"decision.rule={rule}: give one of {', '.join(RULES)}")
    if isinstance(false_alarms, bool) or not isinstance(false_alarms, int | float) or not 0 < false_alarms < 1:
        raise UserError(f"decision.false_alarms={false_alarms}: give a share of normal images between 0 and 1")
    if isinstance(k, bool) or not isinstance(k, int | float) or not 0 <= k < math.inf:
        raise UserError(f"decision.k={k}: give a number of standard deviations, at least 0")


def find_rank(n: int, false_alarms: float) -> int:
    """Return the rank, of n sorted scores and counted from 1, of the threshold for a share of false alarms.

    A further normal score exceeds it with at most that probability: of n + 1 exchangeable scores each rank is as likely
    for the last. It is the largest score where n are too few for that.
    """
    return min(n, math.ceil((n + 1) * (1 - false_alarms) - 1e-9))


def read_setting(model: Mapping[str, Any], scoring: Sequence[str]) -> dict[str, Any]:
    """Return the arguments under which thresholds are valid: those that change scores without training."""
    return {f"model.{name}": model.get(name) for name in scoring}


class Normals:
    """Scores and maps of normal images, summed up so that thresholds can be taken.

    A pixel's threshold is that of the largest pixel of each image, by the rules quantile and max: so many normal images
    may have a mark at all. By mean_std it is of all pixels.
    """

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.largest: list[float] = []  # pixel of each image
        self.medians: list[float] = []  # of each image's pixels
        self.sums = np.zeros(3)  # of all pixels: number, sum, sum of squares

    def add(self, scores: NDArray, maps: NDArray, roi: NDArray[np.bool_] | None = None) -> None:
        """Add a batch: scores (B,), maps (B, h, w); with `roi`, of that shape, pixels outside it do not count."""
        self.scores += [float(score) for score in scores]
        parts = (
            [maps]
            if roi is None
            else [values[kept] for values, kept in zip(maps, roi.reshape(maps.shape), strict=True)]
        )
        for part in parts:
            pixels = part.reshape(len(maps) if roi is None else 1, -1).astype(np.float64)
            self.largest += pixels.max(axis=1).tolist()
            self.medians += np.median(pixels, axis=1).tolist()
            self.sums += pixels.size, pixels.sum(), np.square(pixels).sum()

    def merge(self, parts: "Sequence[Normals]") -> "Normals":
        """Return these and those of other processes as one."""
        merged = Normals()
        for part in parts:
            merged.scores += part.scores
            merged.largest += part.largest
            merged.medians += part.medians
            merged.sums += part.sums
        return merged

    def decide(
        self, rule: str, false_alarms: float, k: float, source: str, setting: Mapping[str, Any],
        anomalous: "Normals | None" = None,
    ) -> Decision:  # fmt: skip
        """Return the decision by a rule; `anomalous`, of anomalous images, is what the rule f1 needs besides.

        Raises `UserError` where there is no image, or a score that is not finite.
        """
        scores, largest = np.sort(self.scores), np.sort(self.largest)
        n = len(scores)
        if not n:
            raise UserError("no normal image to take thresholds from")
        if not np.isfinite(scores).all() or not np.isfinite(self.sums).all():
            raise UserError("the score of a normal image is NaN or infinite: the detector has diverged")
        if rule == "quantile":
            rank = find_rank(n, false_alarms) - 1
            image, pixel = scores[rank], largest[rank]
        elif rule == "max":
            image, pixel = scores[-1], largest[-1]
        elif rule == "mean_std":
            count, total, squares = self.sums
            image = scores.mean() + k * scores.std()
            pixel = total / count + k * math.sqrt(max(0.0, squares / count - (total / count) ** 2))
        elif anomalous is not None:
            image = find_best_f1(scores, np.asarray(anomalous.scores))
            pixel = find_best_f1(largest, np.asarray(anomalous.largest))
        else:
            raise UserError(f"decision.rule={rule}: give one of {', '.join(RULES)}")
        centres = float(np.median(scores)), float(np.median(self.medians))
        return Decision(
            rule, float(false_alarms), float(k), float(image), centres[0], float(pixel), centres[1], n, source,
            dict(setting), anomalous is not None and rule == BY_F1,
        )  # fmt: skip


def find_best_f1(normal: NDArray, anomalous: NDArray) -> float:
    """Return the threshold between two scores at which calling larger ones anomalous has the highest F1."""
    every = np.unique(np.concatenate([normal, anomalous]))
    cuts = np.concatenate([[np.nextafter(every[0], -np.inf)], (every[:-1] + every[1:]) / 2])
    hits = len(anomalous) - np.searchsorted(np.sort(anomalous), cuts, side="right")
    alarms = len(normal) - np.searchsorted(np.sort(normal), cuts, side="right")
    return float(cuts[np.argmax(2 * hits / (hits + alarms + len(anomalous)))])
