"""Ranking metrics: pure functions in `ranking`, `pro` and `sketch`, torchmetrics shells in `detection` and `single`."""

from kdad.metrics.detection import DetectionMetrics, ImageRows
from kdad.metrics.single import AUROC, PRO

__all__ = ["AUROC", "PRO", "DetectionMetrics", "ImageRows"]
