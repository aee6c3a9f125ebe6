"""What a key may hold: in words, and as a test. Nothing is imported for it, so that it is asked before all else."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

DECIMAL = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"


class Values(NamedTuple):
    """What a key may hold: in words, and as a test."""

    words: str
    fit: Callable[[Any], bool]


def is_unique(values: Any) -> bool:
    """Return whether no value of a list comes twice."""
    return len(set(map(str, values))) == len(values)


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number; true and false, which Python counts by, are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a number, which infinity is and nan is not."""
    return is_whole(value) or (isinstance(value, float) and not math.isnan(value))


def is_text(value: Any) -> bool:
    """Return whether a value is a text that is not empty."""
    return isinstance(value, str) and bool(value.strip())


def whole(words: str, fit: Callable[[int], bool] = lambda v: True) -> Values:
    """Return the whole numbers that pass a test."""
    return Values(words, lambda v: is_whole(v) and fit(v))


def number(words: str, fit: Callable[[float], bool]) -> Values:
    """Return the numbers that pass a test."""
    return Values(words, lambda v: is_number(v) and fit(v))


def one_of(*names: Any) -> Values:
    """Return the values that are one of these, and of its type: true is not 1."""
    written = [str(name).lower() if isinstance(name, bool) else str(name) for name in names if name is not None]
    listed = ", ".join(dict.fromkeys(written))
    words = f"one of {listed}" + (", or null" if None in names else "")
    return Values(words, lambda v: any(type(v) is type(name) and v == name for name in names))


def some_of(*names: str) -> Values:
    """Return the lists, not empty, of these names."""
    return Values(
        f"a list of {', '.join(names)}",
        lambda v: isinstance(v, list) and bool(v) and all(isinstance(name, str) and name in names for name in v),
    )


def list_of(values: Values, words: str) -> Values:
    """Return the lists, not empty, whose items are such values."""
    return Values(words, lambda v: isinstance(v, list | tuple) and bool(v) and all(map(values.fit, v)))


def either(*several: Values, words: str = "") -> Values:
    """Return what is of one kind or of another."""
    joined = words or ", or ".join(values.words for values in several)
    return Values(joined, lambda v: any(values.fit(v) for values in several))


def or_null(values: Values) -> Values:
    """Return what is such a value, or null."""
    return Values(f"{values.words}, or null", lambda v: v is None or values.fit(v))


def _is_category(value: Any) -> bool:
    if isinstance(value, list):
        return 0 < len(value) == len(set(map(str, value))) and all(map(NAME.fit, value))
    return value is None or NAME.fit(value)


def _is_intensity(value: Any) -> bool:
    if not isinstance(value, str) or value == "auto":
        return value == "auto"
    found = re.fullmatch(rf"(window|percentile):\s*{DECIMAL}\s*,\s*{DECIMAL}", value)
    low, high = map(float, found.groups()[1:]) if found else (0.0, 0.0)
    inside = math.isfinite(low) and math.isfinite(high) and low < high
    return inside and (value.startswith("window") or (low >= 0 and high <= 100))


def _counts_images(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(parts, Mapping) and all(is_whole(n) and n >= 0 for n in parts.values()) for parts in value.values()
    )


def _are_metrics(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        re.fullmatch(r"\w+(?<!_reason)(?<!_std)(?<!_error)", str(name), re.ASCII)
        and isinstance(node, Mapping)
        and is_text(node.get("_target_"))
        for name, node in value.items()
    )


WHOLE = whole("a whole number")
COUNT = whole("a whole number, at least 1", lambda v: v >= 1)
COUNT_OR_NULL = or_null(COUNT)
FROM_ZERO = whole("a whole number, at least 0", lambda v: v >= 0)
SWITCH = Values("true or false", lambda v: isinstance(v, bool))
TEXT = Values("a text, not empty", is_text)
TEXT_OR_NULL = or_null(TEXT)
NAME = Values("a name", lambda v: is_text(v) or is_whole(v))  # which may look like a number, as category 01 does
# Any text, of which one may be empty
WORD_OR_NULL = Values("a text, or null", lambda v: v is None or isinstance(v, str) or is_whole(v))
TEXTS = Values("a text, or a list of texts", lambda v: is_text(v) or (isinstance(v, list) and all(map(is_text, v))))
FOLDERS = Values("a name, or a list of names", lambda v: NAME.fit(v) or (isinstance(v, list) and all(map(NAME.fit, v))))
PLACES = or_null(FOLDERS)
MAPPING = Values("keys with values", lambda v: isinstance(v, Mapping))
MAPPING_OR_NULL = or_null(MAPPING)
OPTIONAL = Values("one of its choices, or none",
    lambda v: v is None or (isinstance(v, Mapping) and (not v or "_target_" in v)))  # fmt: skip
NOT_NEGATIVE = number("a number, at least 0", lambda v: 0 <= v < math.inf)
SHARE = number("a number from 0 to below 1", lambda v: 0 <= v < 1)
PART = number("a number above 0, at most 1", lambda v: 0 < v <= 1)
PIXELS = number("a number of pixels, at least 0", lambda v: 0 <= v < math.inf)
GIGABYTES = number("a number of gigabytes, at least 0", lambda v: v >= 0)  # inf: without a limit
SECONDS = number("a number of seconds, at least 0", lambda v: v >= 0)
MEGAPIXELS = or_null(number("a number of million pixels above 0", lambda v: 0 < v < math.inf))
STEPS = or_null(whole("a number of steps from 1, or -1 for as many as the epochs have", lambda v: v == -1 or v >= 1))
BATCHES = or_null(Values("a number of batches, or a fraction from 0.0 to 1.0",
    lambda v: v >= 0 if is_whole(v) else is_number(v) and 0 <= v <= 1))  # fmt: skip
SIDE = whole("a whole number of pixels from 1 to 32768", lambda v: 1 <= v <= 2**15)
SIZE = Values(f"{SIDE.words}, or [height, width]",
    lambda v: SIDE.fit(v) or (isinstance(v, list | tuple) and len(v) == 2 and all(map(SIDE.fit, v))))  # fmt: skip
TILE = Values("pixels of the picture, at least 8, [height, width] or auto",
    lambda v: v == "auto" or (SIZE.fit(v) and min(v if isinstance(v, list | tuple) else [v]) >= 8))  # fmt: skip
OVERLAP = Values("pixels of the picture, at least 0, [height, width] or auto",
    lambda v: v == "auto" or FROM_ZERO.fit(v)
    or (isinstance(v, list | tuple) and len(v) == 2 and all(map(FROM_ZERO.fit, v))))  # fmt: skip
ROI = or_null(Values(
    "[left,top,right,bottom] with 0 <= left < right and 0 <= top < bottom, in pixels or, up to 1, in shares; a mask "
    "file; or a folder of masks",
    lambda v: is_text(v) or (isinstance(v, list | tuple) and len(v) == 4 and all(map(is_number, v))
                             and 0 <= v[0] < v[2] and 0 <= v[1] < v[3])))  # fmt: skip
NUMBERED = Values("a number or a module path", lambda v: FROM_ZERO.fit(v) or is_text(v))
LEVELS = Values("auto or a list, each once, such as [1,2,3]",
    lambda v: v == "auto"
    or (isinstance(v, list) and v != [] and all(map(NUMBERED.fit, v)) and is_unique(v)))  # fmt: skip
CHOSEN_LEVELS = or_null(Values("a list of levels, counted from 1, each once, such as [2,3]",
    lambda v: isinstance(v, list) and v != [] and all(map(COUNT.fit, v)) and is_unique(v)))  # fmt: skip
CATEGORY = Values("one name; several, each once, as [a,b]; or all. A sweep over them is -m category=a,b", _is_category)
INTENSITY = Values(
    "auto, or two numbers, the lesser first, as window:<lo>,<hi> or, from 0 to 100, as percentile:<lo>,<hi>",
    _is_intensity)  # fmt: skip
ARCHIVE = or_null(Values("{url: <address>, sha256: <digits>}",
    lambda v: isinstance(v, Mapping) and all(map(is_text, v.values()))))  # fmt: skip
COUNTS = or_null(Values("{<category>: {train: <images>, test: <images>}}", _counts_images))
VARIANTS = Values("<name>: {<key>: <value>, ...}",
    lambda v: isinstance(v, Mapping) and all(isinstance(x, Mapping) for x in v.values()))  # fmt: skip
METRICS = Values("<name>: {_target_: <module>.<class>, ...}, the name of letters, digits and _", _are_metrics)
# What the testing and the command line take
SEED = whole("a whole number from 0 to 4294967295", lambda v: 0 <= v < 2**32)
PORT = whole("a whole number from 0 to 65535", lambda v: 0 <= v <= 65535)
ALARMS = number("a share of normal images between 0 and 1", lambda v: 0 < v < 1)
RATES = Values("a list of false-positive rates in (0, 1], each once, such as [0.3,0.05]",
    lambda v: isinstance(v, list | tuple) and all(map(PART.fit, v)) and is_unique(v))  # fmt: skip
METRICS_GB = number("a number of GB, at least 0.001", lambda v: 0.001 <= v < math.inf)
MONITOR = one_of("val_loss", "val_map", None)._replace(
    words="val_loss, val_map or null: only training images may choose a checkpoint"
)
OBJECTIVE = one_of("loss", "val_loss", "image_auroc", "pixel_auroc", "pro", None)
PROTOCOLS = Values("null, a name, or names such as [rd_code,mkd_code]", or_null(TEXTS).fit)
PLUGINS = Values("a list of modules", lambda v: isinstance(v, list) and all(map(is_text, v)))
SPEED = Values("auto or off", lambda v: v in ("auto", "off") or v is False)  # which off is to YAML
# What Lightning takes
ENDLESS = whole("a whole number, at least 0, or -1", lambda v: v >= -1)
EPOCHS = or_null(whole("a whole number of epochs, at least 0, or -1 for no end", lambda v: v >= -1))
DEVICES = either(
    whole("a number of devices, -1 for all", lambda v: v == -1 or v >= 1),
    *(TEXT, list_of(FROM_ZERO, "a list of their numbers")),
    words="a number of devices, at least 1, -1 for all, their numbers as [0,1], or auto",
)  # fmt: skip
PRECISION = one_of(
    *("64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed", "64", "32", "16", "bf16", 64, 32, 16),
    *("transformer-engine", "transformer-engine-float16", None),
    "auto",  # kdad's own: settled before Lightning sees it
)
OBJECT = Values(
    "a name, or a mapping with _target_", lambda v: is_text(v) or (isinstance(v, Mapping) and "_target_" in v)
)
