"""Benchmarks: lm-eval's tasks and ours, on models of this package."""
