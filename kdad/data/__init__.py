"""Data sets: one datamodule base, one small file per layout."""

from kdad.data.base import AnomalyDataModule
from kdad.data.demo import Demo
from kdad.data.folder import Folder
from kdad.data.mtd import MTD
from kdad.data.mvtec import MVTec
from kdad.data.samples import Sample

__all__ = ["MTD", "AnomalyDataModule", "Demo", "Folder", "MVTec", "Sample"]
