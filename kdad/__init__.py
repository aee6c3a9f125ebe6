"""Knowledge-distillation anomaly detection: reverse distillation, MKD, STPM and DSKD in one framework."""

__version__ = "0.1.0"
