"""From pixel values as stored, of any depth, to the 8 bits that a detector sees: one rule for all images.

A rule is linear, and clips: `lo` becomes 0 and `hi` 255. It is never taken from the image that it is applied to, which
would make a dark part as bright as a light one and hide defects of brightness: a window is given, or found once over
all training images, and is a part of the trained detector from then on.
"""

import logging
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdad.errors import UserError

log = logging.getLogger(__name__)
FORMS = "auto, window:<lo>,<hi> in values as stored, or percentile:<lo>,<hi> in percent of the training images' pixels"
MOST = 2**24  # pixel values that percentiles are taken of; with more, those of each image are drawn at random


class Rule(NamedTuple):
    """How values become 8 bits, and of which `page` of a file, the first of which is 0.

    `intensity` is as configured, `window` the values (lo, hi) that become 0 and 255; None: auto, or percentiles that
    have not been found yet.
    """

    intensity: str = "auto"
    window: tuple[float, float] | None = None
    page: int = 0

    @property
    def percentiles(self) -> tuple[float, float] | None:
        """The percentiles that have yet to be found; None where there is nothing to find."""
        return None if self.intensity == "auto" or self.window else _read_numbers(self.intensity)

    @property
    def key(self) -> tuple[int | str, ...]:
        """What of it makes other images of the same files, for caches; nothing of the default."""
        return (() if self.window is None else tuple(map(repr, self.window))) + ((self.page,) if self.page else ())

    def list_facts(self) -> dict[str, float]:
        """Return the window for results.json; nothing without one."""
        return dict(zip(("intensity_low", "intensity_high"), self.window or (), strict=False))

    def to_plain(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"intensity": self.intensity, "window": list(self.window) if self.window else None, "page": self.page}

    def describe(self) -> str:
        """Return the rule as a sentence's part."""
        return f"window:{self.window[0]:.6g},{self.window[1]:.6g}" if self.window else self.intensity


AUTO = Rule()  # 8 bits as they are, 16 bits of grey divided by 257


def read_rule(intensity: str, page: int) -> Rule:
    """Return the rule that the configuration names. Raises `UserError` for what is none."""
    if not isinstance(page, int) or isinstance(page, bool) or page < 0:
        raise UserError(f"dataset.page={page}: give the number of a page, the first of which is 0")
    if intensity == "auto":
        return Rule(page=page)
    kind = str(intensity).partition(":")[0]
    numbers = _read_numbers(str(intensity))
    if numbers is None or kind not in ("window", "percentile"):
        raise UserError(
            f"dataset.intensity={intensity}: give {FORMS}. In a sweep, quotes keep it together: "
            "'dataset.intensity=\"window:0,4095\"'"
        )
    low, high = numbers
    if kind == "percentile" and not 0 <= low < high <= 100:
        raise UserError(f"dataset.intensity={intensity}: percentiles go from 0 to 100, the lower first")
    if not low < high:
        raise UserError(f"dataset.intensity={intensity}: {low:g} becomes black and {high:g} white, so give less first")
    return Rule(str(intensity), numbers if kind == "window" else None, page)


def _read_numbers(intensity: str) -> tuple[float, float] | None:
    number = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    found = re.fullmatch(rf"\w+:\s*{number}\s*,\s*{number}", intensity)
    numbers = (float(found[1]), float(found[2])) if found else None
    return numbers if numbers and all(map(math.isfinite, numbers)) else None


def restore_rule(plain: Mapping[str, Any] | None) -> Rule:
    """Return the rule that a checkpoint holds; of an earlier one, which holds none, the default."""
    if not plain:
        return AUTO
    window = plain["window"] and (float(plain["window"][0]), float(plain["window"][1]))
    return Rule(plain["intensity"], window, int(plain["page"]))


def adopt_rule(rule: Rule, plain: Mapping[str, Any] | None) -> Rule:
    """Return the rule with the window that a checkpoint holds, if that was configured alike; warn where it was not."""
    if plain is None:
        return rule
    trained = restore_rule(plain)
    if (trained.intensity, trained.page) == (rule.intensity, rule.page):
        return trained
    log.warning(
        "the detector was trained with dataset.intensity=%s dataset.page=%d, as its pictures should be read; here it "
        "is dataset.intensity=%s dataset.page=%d", trained.describe(), trained.page, rule.intensity, rule.page,
    )  # fmt: skip
    return rule


def refuse_rule(rule: Rule, name: str) -> None:
    """Raise `UserError` where a rule is given for a data set whose images are no files of their own."""
    if rule != AUTO:
        raise UserError(
            f"dataset.intensity={rule.intensity} dataset.page={rule.page}: images of {name} are of 8 bits and no files "
            "of their own. Give dataset.intensity=auto dataset.page=0"
        )


def map_values(values: NDArray[Any], rule: Rule) -> NDArray[np.uint8]:
    """Map values of any type and shape by the rule's window to 0 to 255, clipped and rounded."""
    assert rule.window is not None
    low, high = rule.window
    return np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def find_window(rule: Rule, images: Iterable[NDArray[Any]], n: int) -> Rule:
    """Return a percentile rule with its window, found over the values as stored of all `n` images together.

    All values count where there are at most `MOST`; else as many of each image, drawn at random but each time the same.
    Raises `UserError` where the window would be empty.
    """
    assert rule.percentiles is not None
    share = max(1, MOST // max(1, n))
    parts = []
    for values in images:
        flat = values.ravel()
        parts.append(flat if flat.size <= share else flat[np.random.default_rng(0).integers(flat.size, size=share)])
    low, high = (float(value) for value in np.percentile(np.concatenate(parts), rule.percentiles))
    if not low < high:
        raise UserError(
            f"dataset.intensity={rule.intensity}: of the pixels of {n} training images both percentiles are {low:g}. "
            "Give some that lie further apart, or a window"
        )
    return rule._replace(window=(low, high))


def refuse_unless_finite(values: NDArray[Any], name: object) -> NDArray[Any]:
    """Return values as they are. Raises `UserError`, with the image's name, where one is no number."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        n = int((~np.isfinite(values)).sum())
        raise UserError(f"image {name} has {n} pixels that are NaN or infinite: replace them by numbers")
    return values
