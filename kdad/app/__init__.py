"""A page to try trained detectors on, and the same over HTTP."""
