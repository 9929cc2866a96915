"""The floating-point operations of a traced function, loops and recomputation included."""

import math
from collections.abc import Iterator
from typing import Any

import jax


def operations(jaxpr: Any) -> float:
    """Add up the operations of the matrix products in a traced function, not of convolutions.

    A loop counts as often as it runs where that is known when it is traced, else once; of branches
    the largest counts.

    Args:
      jaxpr: from `jax.stages.Traced.jaxpr`.

    Returns:
      Two for each multiplication and addition, of all devices together.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return float(sum(_of_equation(equation) for equation in jaxpr.eqns))


def _of_equation(equation: Any) -> float:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        summed = math.prod(left[axis] for axis in contracted)
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * summed
    inner = [operations(jaxpr) for jaxpr in _inner(equation.params)]
    if equation.primitive.name == "cond":
        return max(inner, default=0.0)
    return _repeats(equation) * sum(inner)


def _repeats(equation: Any) -> int:
    """The number of times that an equation runs what is in it."""
    params = equation.params
    if equation.primitive.name == "scan":
        return params["length"]
    if equation.primitive.name == "shard_map":
        # Its shapes are those of one device.
        return params["mesh"].size
    if equation.primitive.name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    return 1


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The traced functions among an equation's parameters."""

    def is_jaxpr(value: Any) -> bool:
        return hasattr(value, "eqns") or hasattr(value, "jaxpr")

    for value in jax.tree.leaves(list(params.values()), is_leaf=is_jaxpr):
        if is_jaxpr(value):
            yield value
