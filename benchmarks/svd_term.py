"""Accuracy and time of the SVD term and its gradient, by each method, on spectra of known shape.

    python -m benchmarks.svd_term [--sizes 512x576x49152 1024x512x32000] [--repeats 3]
    python -m benchmarks.svd_term --sizes 2048x4096x32000 --methods exact subspace randomized       (an accelerator)

A size is tokens x width x vocabulary. Methods: `whole`, a decomposition of Z [tokens, V], the definition; `exact`, one
of H R^T [tokens, d]; `subspace`, what training uses; `randomized`, the official code's svd_lowrank(q = k + 5,
niter = 2) of Z. Values and gradients (of the hidden states) are compared with float64. Prints a table and writes
benchmarks/results/svd_term.json.
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.models import Head
from balora_jax.objective.spectrum import head_factor, leading_share, leading_share_of_logits
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
        kernel = (
            np.random.default_rng(0).normal(size=(width, vocabulary)).astype(np.float32)
            / width**0.5
        )
        for spectrum in options.spectra:
            found = compare(kernel, tokens, spectrum, options.methods, options.repeats)
            for method, row in found.items():
                sizes = {"tokens": tokens, "width": width, "vocabulary": vocabulary}
                rows.append({**sizes, "spectrum": spectrum, "method": method, **row})
                print(LINE.format(**rows[-1]), flush=True)
    measure.write("svd_term", {"options": vars(options), "rows": rows})


def compare(
    kernel: np.ndarray, tokens: int, spectrum: str, methods: list[str], repeats: int
) -> dict[str, dict[str, float]]:
    """Relative errors of value and gradient, and median seconds, of each method."""
    factor = np.linalg.qr(kernel.T.astype(np.float64), mode="r")
    hidden = _states(factor, tokens, SPECTRA[spectrum])
    value, gradient = _in_float64(hidden.astype(np.float64), factor)
    states, head = jnp.asarray(hidden), Head(jnp.asarray(kernel))
    calls = {
        name: functools.partial(_term(name), states, head, jax.jit(head_factor)(head))
        for name in methods
    }
    seconds = measure.seconds_in_turn(calls, repeats)
    rows = {}
    for name, call in calls.items():
        found, slope = jax.device_get(call())
        error = np.linalg.norm(slope - gradient) / np.linalg.norm(gradient)
        rows[name] = {
            "value_error": float(abs(found / value - 1)),
            "gradient_error": float(error),
            "seconds": statistics.median(seconds[name]),
        }
    return rows


def _term(method: str):
    """(hidden, head, factor) -> (value, gradient of hidden)."""

    def term(hidden: jax.Array, head: Head, factor: jax.Array) -> jax.Array:
        mask = jnp.ones(len(hidden), bool)
        if method == "whole":
            return nlg.svd(jnp.matmul(hidden, head.kernel, precision="highest"), mask, k=K)
        if method == "randomized":
            logits = jnp.matmul(hidden, head.kernel, precision="highest")
            return leading_share_of_logits(logits, mask, k=K, method="randomized")
        return leading_share(hidden, factor, mask, k=K, method=method)

    return jax.jit(jax.value_and_grad(term))


def _states(factor: np.ndarray, tokens: int, spectrum) -> np.ndarray:
    """Hidden states whose logits have the given spectrum: left diag(s) right^T R^-T."""
    rng, width = np.random.default_rng(1), len(factor)
    left, right = (
        np.linalg.qr(rng.normal(size=(side, min(tokens, width))))[0] for side in (tokens, width)
    )
    values = 100 * spectrum(np.arange(min(tokens, width), dtype=float))
    return np.linalg.solve(factor, (right * values) @ left.T).T.astype(np.float32)


def _in_float64(hidden: np.ndarray, factor: np.ndarray) -> tuple[float, np.ndarray]:
    """The term and its gradient from Z = H R^T up to a rotation: - (s_1 + ... + s_k) / |Z|."""
    rotated = hidden @ factor.T
    left, values, right = np.linalg.svd(rotated, full_matrices=False)
    norm, leading = np.linalg.norm(values), values[:K].sum()
    slope = -(left[:, :K] @ right[:K] - leading / norm**2 * rotated) / norm
    return -leading / norm, slope @ factor


if __name__ == "__main__":
    main()
