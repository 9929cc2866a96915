"""Benchmarks, one command each: `python -m benchmarks.NAME --help`."""

import os

# As on the command line of the package (`balora_jax.cli`); before jax is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
