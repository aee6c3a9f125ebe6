"""Ranking metrics: pure NumPy in `ranking`, `pro`, `sketch` and `pixels`; torchmetrics in `modules` and `detection`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdad.metrics.detection import DetectionMetrics, ImageRows, Outcome
    from kdad.metrics.modules import AUROC, PRO

__all__ = ["AUROC", "PRO", "DetectionMetrics", "ImageRows", "Outcome"]
_MODULES = {"AUROC": "modules", "PRO": "modules"}  # others are in `detection`


def __getattr__(name: str) -> Any:
    """Import a metric when it is first asked for: torch and torchmetrics take seconds, and reports do without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'detection')}"), name)
