"""Knowledge-distillation anomaly detection: reverse distillation, MKD, STPM and DSKD in one framework."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdad.inference.detector import Detector, Result, load

# Read by torch when it makes its first tensor: large ones lie on huge pages, where the system has them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.2.0"
__all__ = ["Detector", "Result", "__version__", "load"]


def __dir__() -> list[str]:
    """Return the names of this module, those that are imported when they are first asked for among them."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import what applies a trained detector when it is first asked for: torch and timm take seconds."""
    if name not in ("load", "Detector", "Result"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kdad.inference import detector

    return getattr(detector, name)
