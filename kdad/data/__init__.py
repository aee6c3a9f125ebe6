"""Data sets: one datamodule base, one small file per layout."""

from kdad.data.base import AnomalyDataModule, Sample
from kdad.data.demo import Demo
from kdad.data.mtd import MTD
from kdad.data.mvtec import MVTec

__all__ = ["MTD", "AnomalyDataModule", "Demo", "MVTec", "Sample"]
