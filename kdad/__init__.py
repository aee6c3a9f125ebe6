"""Knowledge-distillation anomaly detection: reverse distillation, MKD, STPM and DSKD in one framework."""

import os

# Read by torch when it makes its first tensor: large ones lie on huge pages, where the system has them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.2.0.dev0"
