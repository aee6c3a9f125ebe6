"""Exact ranking metrics: pure functions in `ranking` and `pro`, torchmetrics shells over them in `detection`."""

from kdad.metrics.detection import AUROC, PRO, DetectionMetrics, ImageRows

__all__ = ["AUROC", "PRO", "DetectionMetrics", "ImageRows"]
