"""Ranking metrics: pure NumPy in `ranking`, `pro`, `sketch` and `pixels`; torchmetrics in `modules` and `detection`."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from kdad.metrics.detection import DetectionMetrics, ImageRows, Outcome
    from kdad.metrics.modules import AUROC, PRO

__all__ = ["AUROC", "PRO", "DetectionMetrics", "ImageRows", "Outcome"]
# Imported when first asked for: torch and torchmetrics take seconds, and reports do without.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "detection": ["DetectionMetrics", "ImageRows", "Outcome"],
        "modules": ["AUROC", "PRO"],
    },
)
