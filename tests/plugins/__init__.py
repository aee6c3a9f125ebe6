"""Detectors that only tests use, each one file and one YAML, to show that the core need not change."""
