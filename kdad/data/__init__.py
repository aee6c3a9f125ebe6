"""Data sets: one datamodule base, one small file per layout."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdad.data.base import AnomalyDataModule
    from kdad.data.caltech import Caltech256
    from kdad.data.demo import Demo
    from kdad.data.elpv import ELPV
    from kdad.data.folder import Folder
    from kdad.data.medical import BrainMRI, HeadCT, RetinalOCT
    from kdad.data.mtd import MTD
    from kdad.data.mvtec import MVTec
    from kdad.data.real_iad import RealIAD
    from kdad.data.samples import Sample
    from kdad.data.stc import STC
    from kdad.data.torchvision_sets import CIFAR10, MNIST, FashionMNIST
    from kdad.data.union import Union
    from kdad.data.visa import VisA

__all__ = [
    "CIFAR10",
    "ELPV",
    "MNIST",
    "MTD",
    "STC",
    "AnomalyDataModule",
    "BrainMRI",
    "Caltech256",
    "Demo",
    "FashionMNIST",
    "Folder",
    "HeadCT",
    "MVTec",
    "RealIAD",
    "RetinalOCT",
    "Sample",
    "Union",
    "VisA",
]
_MODULES = {
    "AnomalyDataModule": "base",
    "Caltech256": "caltech",
    "Demo": "demo",
    "ELPV": "elpv",
    "Folder": "folder",
    "BrainMRI": "medical",
    "HeadCT": "medical",
    "RetinalOCT": "medical",
    "MTD": "mtd",
    "MVTec": "mvtec",
    "RealIAD": "real_iad",
    "Sample": "samples",
    "STC": "stc",
    "CIFAR10": "torchvision_sets",
    "MNIST": "torchvision_sets",
    "FashionMNIST": "torchvision_sets",
    "Union": "union",
    "VisA": "visa",
}


def __getattr__(name: str) -> Any:
    """Import a data set when it is first asked for: each needs other packages, and all of them take seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
