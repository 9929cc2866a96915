"""Accuracy and time of the SVD term and its gradient by each method, on known spectra.

On a CPU, or on an accelerator:

    python -m benchmarks.svd_term [--sizes 512x576x49152 1024x512x32000] [--repeats 3]
    python -m benchmarks.svd_term --sizes 2048x4096x32000 --methods exact subspace randomized

A size is tokens x width x vocabulary. The methods are

    whole       a full decomposition of Z [tokens, V], the definition
    exact       a full decomposition of H R^T [tokens, d]
    subspace    the method of training
    randomized  svd_lowrank(q = k + 5, niter = 2) of Z, as in the official code

Values, and gradients of the hidden states, are compared with float64. Prints a table and writes
benchmarks/results/svd_term.json.
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.models import Head
from balora_jax.objective.spectrum import checked_share_of_logits, head_factor, leading_share
from balora_jax.regularizers import nlg
from benchmarks import measure

K = 10
METHODS = ("whole", "exact", "subspace", "randomized")
SPECTRA = {
    "decaying": lambda i: 1 / (1 + i),
    "flat": lambda i: 1 - 0.5 * i / len(i),
    "rank 20": lambda i: np.where(i < 20, 1 / (1 + i), 0.0),
}
LINE = (
    "{tokens:5} x {width:4} x {vocabulary:6} {spectrum:9} {method:11} value {value_error:8.1e}  "
    "gradient {gradient_error:8.1e}  {seconds:8.4f} s"
)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["512x576x49152", "1024x512x32000"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--spectra", nargs="+", default=list(SPECTRA), choices=SPECTRA)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        tokens, width, vocabulary = (int(number) for number in size.split("x"))
        rng = np.random.default_rng(0)
        kernel = rng.normal(size=(width, vocabulary)).astype(np.float32) / width**0.5
        sizes = {"tokens": tokens, "width": width, "vocabulary": vocabulary}
        for spectrum in options.spectra:
            results = compare(kernel, tokens, spectrum, options.methods, options.repeats)
            for method, numbers in results.items():
                row = {**sizes, "spectrum": spectrum, "method": method, **numbers}
                rows.append(row)
                print(LINE.format(**row), flush=True)
    measure.write("svd_term", {"options": vars(options), "rows": rows})


def compare(
    kernel: np.ndarray, tokens: int, spectrum: str, methods: list[str], repeats: int
) -> dict[str, dict[str, float]]:
    """Measure every method on one spectrum.

    Args:
      kernel: float32 [width, V], the head.
      tokens: the number of hidden states.
      spectrum: one of SPECTRA.
      methods: some of METHODS.
      repeats: timed calls of each method.

    Returns:
      The relative errors of value and gradient, and the median seconds, by method.
    """
    factor = np.linalg.qr(kernel.T.astype(np.float64), mode="r")
    hidden = _states(factor, tokens, SPECTRA[spectrum])
    value, gradient = _in_float64(hidden.astype(np.float64), factor)
    states = jnp.asarray(hidden)
    head = Head(jnp.asarray(kernel))
    calls = {
        name: functools.partial(_term(name), states, head, jax.jit(head_factor)(head))
        for name in methods
    }
    seconds = measure.seconds_in_turn(calls, repeats)
    rows = {}
    for name, call in calls.items():
        call_value, call_gradient = jax.device_get(call())
        error = np.linalg.norm(call_gradient - gradient) / np.linalg.norm(gradient)
        rows[name] = {
            "value_error": float(abs(call_value / value - 1)),
            "gradient_error": float(error),
            "seconds": statistics.median(seconds[name]),
        }
    return rows


def _term(method: str):
    """A method as a function (hidden, head, factor) -> (value, gradient of hidden)."""

    def term(hidden: jax.Array, head: Head, factor: jax.Array) -> jax.Array:
        mask = jnp.ones(len(hidden), bool)
        if method == "whole":
            return nlg.svd(jnp.matmul(hidden, head.kernel, precision="highest"), mask, k=K)
        if method == "randomized":
            logits = jnp.matmul(hidden, head.kernel, precision="highest")
            value, _ = checked_share_of_logits(logits, mask, k=K, method="randomized")
            return value
        return leading_share(hidden, factor, mask, k=K, method=method)

    return jax.jit(jax.value_and_grad(term))


def _states(factor: np.ndarray, tokens: int, spectrum) -> np.ndarray:
    """Hidden states whose logits have the given spectrum: left diag(s) right^T R^-T."""
    rng = np.random.default_rng(1)
    width = len(factor)
    rank = min(tokens, width)
    left, _ = np.linalg.qr(rng.normal(size=(tokens, rank)))
    right, _ = np.linalg.qr(rng.normal(size=(width, rank)))
    values = 100 * spectrum(np.arange(rank, dtype=float))
    return np.linalg.solve(factor, (right * values) @ left.T).T.astype(np.float32)


def _in_float64(hidden: np.ndarray, factor: np.ndarray) -> tuple[float, np.ndarray]:
    """The term - (s_1 + ... + s_k) / |Z| and its gradient, from H R^T, which is Z rotated."""
    rotated = hidden @ factor.T
    left, values, right = np.linalg.svd(rotated, full_matrices=False)
    norm = np.linalg.norm(values)
    leading = values[:K].sum()
    rotated_gradient = -(left[:, :K] @ right[:K] - leading / norm**2 * rotated) / norm
    return -leading / norm, rotated_gradient @ factor


if __name__ == "__main__":
    main()
