"""The timm feature-extractor layer: a pyramid of features at named levels, and the frozen teacher made of it."""

from typing import TYPE_CHECKING

import lazy_loader

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
# Imported when first asked for: `weights` looks for a file without timm, which takes seconds to import.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "frozen": ["Teacher", "fingerprint"],
        "levels": ["Level", "at_strides", "build_network", "check_name", "read_feature_info"],
        "pyramid": ["FeaturePyramid"],
    },
)
