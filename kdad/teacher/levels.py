"""timm's networks and their levels: by name, by index, by module path, by stride."""

from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import nn

from kdad.errors import UserError
from kdad.geometry import ImageSize, simplify

Level = int | str
"""One level of a network: an index into timm's feature_info, or the path of a module such as `layer2.0`."""


def at_strides(*strides: int) -> Callable[[str], list[Level]]:
    """Make a rule for `levels: auto`: take a network's deepest level at each of these strides.

    Returns a function from a network's name to its levels, which raises `UserError` where a stride is missing.

    Examples:
        >>> at_strides(4, 8, 16)("resnet18.tv_in1k")
        [1, 2, 3]
    """

    def choose(name: str) -> list[Level]:
        found = {entry["reduction"]: index for index, entry in enumerate(read_feature_info(name))}
        if missing := [s for s in strides if s not in found]:
            raise UserError(
                f"backbone.name={name} has no feature pyramid with strides {', '.join(map(str, strides))}: "
                f"{', '.join(map(str, missing))} missing, found {sorted(found) or 'none'}. Plain vision transformers "
                "keep one stride; choose a convolutional or hierarchical backbone (resnet18.tv_in1k, "
                "convnext_tiny.fb_in1k, ...), or name levels=[...] yourself."
            )
        return [found[s] for s in strides]

    return choose


def read_feature_info(name: str) -> list[dict[str, Any]]:
    """Read timm's description of a network's levels, shallow to deep; empty where there is none.

    Returns of each its module path (`module`), stride (`reduction`) and channels (`num_chs`).
    """
    return [dict(entry) for entry in _read_feature_info(name)]


@cache
def _read_feature_info(name: str) -> tuple[dict[str, Any], ...]:
    return tuple(getattr(build_network(name, meta=True), "feature_info", ()))


def build_network(name: str, image_size: ImageSize | None = None, meta: bool = False) -> nn.Module:
    """Build a timm network with random weights, for `image_size` where its positions need one. Returns it.

    With `meta` it is on the meta device, which takes no memory and no time.
    """
    cfg = timm.get_pretrained_cfg(name)
    # Networks with a fixed grid of positions must be told the size.
    size: dict[str, Any] = (
        {"img_size": simplify(image_size)} if image_size and cfg is not None and cfg.fixed_input_size else {}
    )
    with torch.device("meta" if meta else "cpu"):
        return timm.create_model(name, pretrained=False, **size)


def check_name(name: str) -> None:
    """Raise `UserError` unless timm has a network of this name and tag; the message lists the nearest names."""
    read_pretrained_cfg(name)


def read_pretrained_cfg(name: str) -> PretrainedCfg:
    """Read what timm says of a network's pre-trained weights. Raises `UserError` where it knows no such name or tag."""
    cfg = None
    if timm.is_model(name.split(".")[0]):
        with suppress(RuntimeError):  # what timm raises for an unknown tag
            cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if cfg is None:
        close = get_close_matches(name, timm.list_models() + timm.list_pretrained(), n=3, cutoff=0.5)
        raise UserError(f"backbone.name={name}: timm has no such model. Nearest: {', '.join(close) or 'none'}")
    return cfg


def find_module_path(network: nn.Module, level: Level, name: str) -> str:
    """Find the module path of a level. Raises `UserError` with the valid ones if it does not exist."""
    info = list(getattr(network, "feature_info", []))
    modules = [n for n, _ in network.named_modules() if n]
    if isinstance(level, int) and not isinstance(level, bool):
        if 0 <= level < len(info):
            path = str(info[level]["module"])
            if path in modules:
                return path
            raise UserError(f"levels: {name} computes {path!r} outside any module; name module paths in levels=[...]")
        listed = ", ".join(f"{i} ({e['module']}, stride {e['reduction']})" for i, e in enumerate(info))
        raise UserError(f"levels: {name} has no level {level}; it has {listed or 'none by index: name module paths'}")
    if level not in modules:
        close = get_close_matches(str(level), modules, n=3)
        raise UserError(f"levels: {name} has no module {level!r}. Nearest: {', '.join(close) or 'none'}")
    return str(level)
