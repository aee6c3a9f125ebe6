"""The timm feature-extractor layer: a pyramid of features at named levels, and the frozen teacher made of it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdad.teacher.frozen import Teacher, fingerprint
    from kdad.teacher.levels import Level, at_strides, build_network, check_name, read_feature_info
    from kdad.teacher.pyramid import FeaturePyramid

__all__ = [
    "FeaturePyramid",
    "Level",
    "Teacher",
    "at_strides",
    "build_network",
    "check_name",
    "fingerprint",
    "read_feature_info",
]
_MODULES = {
    "Teacher": "frozen",
    "fingerprint": "frozen",
    "Level": "levels",
    "at_strides": "levels",
    "build_network": "levels",
    "check_name": "levels",
    "read_feature_info": "levels",
    "FeaturePyramid": "pyramid",
}


def __getattr__(name: str) -> Any:
    """Import what is first asked for: `weights` looks for a file without timm, which takes seconds to import."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
