"""Ranking metrics: pure NumPy in `ranking`, `pro`, `sketch` and `pixels`; torchmetrics in `modules` and `detection`."""

from kdad.metrics.detection import DetectionMetrics, ImageRows, Outcome
from kdad.metrics.modules import AUROC, PRO

__all__ = ["AUROC", "PRO", "DetectionMetrics", "ImageRows", "Outcome"]
