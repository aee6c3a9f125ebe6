"""Plain values in text files that may come from anywhere: parsed without running code, and without end or flood."""

import json
from typing import Any

import yaml

MOST = 100_000  # values in a file of settings: a few lines of YAML can stand for any number of them
# OmegaConf's loader would take ten times as long.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_json(text: str) -> Any:
    """Return what JSON text holds. Raises `ValueError` where it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_yaml(text: str) -> Any:
    """Return what YAML text holds. Raises `ValueError` where it is none, nested too deeply, or stands for too much."""
    try:
        found = yaml.load(text, LOADER)
        count_values(found)
        return found
    except (yaml.YAMLError, RecursionError, TypeError, OverflowError) as error:  # of a key that is a list, say
        raise ValueError(str(error) or "it is nested too deeply") from error


def count_values(found: Any, so_far: int = 0) -> int:
    """Return how many values there are, each as often as it is referred to. Raises `ValueError` above `MOST`."""
    so_far += 1
    if so_far > MOST:
        raise ValueError(f"it stands for more than {MOST} values")
    for value in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        so_far = count_values(value, so_far)
    return so_far
