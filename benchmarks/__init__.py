"""Measurements of speed: python -m benchmarks.NAME."""
