"""Adapters on any Linen module, and the check that adapters fit a model.

`Adapted` gives a module that was not written for adapters the kernels W + A B in place of W. This
costs the product A B and a gradient of W's size. The models of this package use the side path of
`layers.Dense` instead.
"""

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict

from balora_jax.adapters.merge import merge
from balora_jax.adapters.targets import adapted_leaf, dotted
from balora_jax.errors import BadInput


def check_lora_paths(lora: dict, params: dict) -> None:
    """Check that every adapter has a kernel that it fits; Linen ignores unknown adapters silently.

    Args:
      lora: {a, b} tree with a [..., in, R] and b [..., R, out].
      params: the parameters or their shapes.

    Raises:
      BadInput: an adapter is at a path without a kernel, is not a pair, or does not have its
        kernel's shape. The message lists all misfits.
    """
    adapters = flatten_dict(lora)
    flat = flatten_dict(params)
    problems = []
    for module in sorted({path[:-1] for path in adapters}):
        problem = _misfit(module, adapters, flat)
        if problem is not None:
            problems.append(problem)
    for path in adapters:
        if path[-1] not in ("a", "b"):
            problems.append(f"{dotted(path)}: only a and b belong here")
    if problems:
        raise BadInput(f"adapters that do not fit the model: {'; '.join(problems)}")


def _misfit(module: tuple, adapters: dict, flat: dict) -> str | None:
    """Describe how one module's adapter does not fit its kernel; None if it does."""
    name = dotted(module)
    kernel = flat.get(adapted_leaf(flat, module))
    a = adapters.get((*module, "a"))
    b = adapters.get((*module, "b"))
    if kernel is None:
        return f"{name}: the model has no kernel there"
    if a is None or b is None:
        return f"{name}: needs both a and b"
    product_shape = (*a.shape[:-1], b.shape[-1])
    matching_b = (*a.shape[:-2], a.shape[-1])
    if product_shape != kernel.shape or b.shape[:-1] != matching_b:
        return (
            f"{name}: a {list(a.shape)} and b {list(b.shape)} do not make the kernel's "
            f"{list(kernel.shape)}"
        )
    return None


class Adapted(nn.Module):
    """A Linen module whose adapted kernels are W + A B.

        Adapted(inner).apply({"params": params, "lora": lora}, x)

    `params` are the inner module's own parameters. The adapters transform the module's variables
    within its own scope (nn.map_variables). The call raises BadInput when it is traced with
    adapters that do not fit.

    Attributes:
      inner: the module to adapt.
    """

    inner: nn.Module

    def setup(self) -> None:
        nn.share_scope(self, self.inner)

    def __call__(self, *args, **kwargs) -> jax.Array:
        """Return the inner module's output for the same arguments."""
        call = nn.map_variables(
            _call,
            ("params", "lora"),
            _merged_variables,
            init=self.is_initializing(),
            mutable=self.is_initializing(),
        )
        return call(self.inner, *args, **kwargs)


def _call(module: nn.Module, *args, **kwargs):
    return module(*args, **kwargs)


def _merged_variables(variables: dict) -> dict:
    """Merge the adapters into the parameters, and leave the other collections as they are.

    {"params": {"q": {"kernel": W}}, "lora": {"q": {"a": A, "b": B}}}
    ->  {"params": {"q": {"kernel": W + A B}}, "lora": {"q": {"a": A, "b": B}}}
    """
    params = variables.get("params", {})
    lora = variables.get("lora", {})
    check_lora_paths(lora, params)
    return {**variables, "params": merge(params, lora)}
