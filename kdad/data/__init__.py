"""Data sets: one datamodule base, one small file per layout."""

from typing import TYPE_CHECKING

import lazy_loader

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
# A data set is imported when it is first asked for: each needs other packages, and all of them take seconds.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": ["AnomalyDataModule"],
        "caltech": ["Caltech256"],
        "demo": ["Demo"],
        "elpv": ["ELPV"],
        "folder": ["Folder"],
        "medical": ["BrainMRI", "HeadCT", "RetinalOCT"],
        "mtd": ["MTD"],
        "mvtec": ["MVTec"],
        "real_iad": ["RealIAD"],
        "samples": ["Sample"],
        "stc": ["STC"],
        "torchvision_sets": ["CIFAR10", "MNIST", "FashionMNIST"],
        "union": ["Union"],
        "visa": ["VisA"],
    },
)
