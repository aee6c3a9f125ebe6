"""The timm feature-extractor layer: a pyramid of features at named levels, and the frozen teacher made of it."""

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
