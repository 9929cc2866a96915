"""Benchmarks, one command each: `python -m benchmarks.NAME --help`."""

import os

# As in `balora_jax.cli`. It must be set before jax is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
