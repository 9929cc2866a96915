"""Recomputation of cheap functions in the backward pass."""

from collections.abc import Callable

import jax

# The name of products with weights that are no dot products to remat.
PRODUCT = "product"


def recomputed(function: Callable) -> Callable:
    """Keep only the arguments of `function` for the backward pass, and recompute the rest.

    For elementwise functions this costs less than storing their intermediate values. The arguments
    of a scanned layer are saved by the scan, so common subexpressions need no protection.

    Args:
      function: a pure function of arrays.

    Returns:
      A function with the same values and gradients.
    """
    return jax.checkpoint(function, prevent_cse=False)
