"""Benchmarks: not installed, run from the repository as ``python -m tools.<name>``."""
