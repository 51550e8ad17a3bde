"""Measurements: run as ``python -m benchmarks.NAME``; results are committed beside them."""
