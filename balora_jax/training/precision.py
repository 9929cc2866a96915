"""The precision of matrix products: their element type, and the passes that a device takes.

Devices round float32 numbers before they multiply them, TPUs to bfloat16 and GPUs to tf32, unless
a program asks for more.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Precision(NamedTuple):
    """One of the values of `training.precision`.

    Attributes:
      dtype: element type of the inputs of products with weights.
      products: jax's name for the precision of products; None for the device's own, which is exact
        for products of bfloat16.
    """

    dtype: jnp.dtype
    products: str | None


PRECISIONS = {
    "float32": Precision(jnp.dtype(jnp.float32), "float32"),
    "tf32": Precision(jnp.dtype(jnp.float32), "tensorfloat32"),
    "bfloat16": Precision(jnp.dtype(jnp.bfloat16), None),
}


def product_precision(name: str) -> AbstractContextManager:
    """Compute products at a precision in all that is traced in this context, in this thread.

    Args:
      name: of PRECISIONS.
    """
    return jax.default_matmul_precision(PRECISIONS[name].products)


def at_precision(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function whose products are computed at a precision, whatever thread traces it.

    Args:
      function: to be traced by jax.
      name: of PRECISIONS.
    """

    @functools.wraps(function)
    def precise(*arguments: Any) -> Any:
        with product_precision(name):
            return function(*arguments)

    return precise
