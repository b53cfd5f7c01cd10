"""Measurements: ``python -m bench``. Whole processes, medians of several interleaved runs, with their spread."""
