"""The matrix products of a traced function."""

from typing import Any, NamedTuple

import jax


class Product(NamedTuple):
    """A dot_general: its precision, the element types of its inputs, and its output."""

    precision: Any
    inputs: tuple[Any, Any]
    shape: tuple[int, ...]
    dtype: Any


def products_of(function, *arguments) -> list[Product]:
    """The products of a function traced on arrays or shapes, those of inner programs included."""
    return list(_products(jax.make_jaxpr(function)(*arguments).jaxpr))


def _products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            precision = equation.params["precision"]
            # A pair, one for each input.
            precision = precision[0] if isinstance(precision, tuple) else precision
            inputs = tuple(variable.aval.dtype for variable in equation.invars)
            output = equation.outvars[0].aval
            yield Product(precision, inputs, output.shape, output.dtype)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")
        ):
            if hasattr(inner, "jaxpr"):
                inner = inner.jaxpr
            if hasattr(inner, "eqns"):
                yield from _products(inner)
