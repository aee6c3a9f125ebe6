"""Plain values in text files that may come from anywhere: parsed without running code, and without end or flood."""

import json
from contextlib import suppress
from functools import lru_cache
from typing import Any

import yaml

MOST = 100_000  # values in a file of settings: a few lines of YAML can stand for any number of them
# OmegaConf's loader would take ten times as long.
SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(SAFE):
    """YAML's safe loader, which looks at the same plain text once: a thousand configurations hold the same words."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """Return the tag of a node, which of a scalar follows from its text."""
        return _resolve(value, implicit) if kind is yaml.ScalarNode else super().resolve(kind, value, implicit)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return what a node stands for; what a scalar does, cannot be changed and may be shared."""
        if isinstance(node, yaml.ScalarNode):
            with suppress(yaml.YAMLError):  # which is raised below, with the line
                return _construct(node.tag, node.value)
        return super().construct_object(node, deep)


@lru_cache(10_000)
def _resolve(value: str, implicit: tuple[bool, bool]) -> str:
    return yaml.resolver.Resolver().resolve(yaml.ScalarNode, value, implicit)


@lru_cache(10_000)
def _construct(tag: str, value: str) -> Any:
    return yaml.constructor.SafeConstructor().construct_object(yaml.ScalarNode(tag, value))


def parse_json(text: str) -> Any:
    """Return what JSON text holds. Raises `ValueError` where it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_yaml(text: str) -> Any:
    """Return what YAML text holds. Raises `ValueError` where it is none, nested too deeply, or stands for too much."""
    try:
        found = yaml.load(text, Loader)
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
