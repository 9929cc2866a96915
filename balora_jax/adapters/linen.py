"""Adapters on any Linen module, and the check that every adapter has a kernel to adapt.

A module that was not written for adapters reads W; here it is handed W + A B instead, so it needs no change. It
costs the product A B and a full-size gradient of it; the models of this package take the side path of `layers.Dense`.
"""

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from balora_jax.errors import BadInput


def check_lora_paths(lora: dict, params: dict) -> None:
    """Holds adapters against the parameters they are for; Linen itself ignores those that fit nowhere.

    Args:
        lora: {module path: {"a": [..., in, R], "b": [..., R, out]}}, nested.
        params: the parameters or their shapes.

    Raises:
        BadInput: an adapter is at a path without a kernel, is not a pair, or does not have its kernel's shape; all are
            named.
    """
    adapters, flat = flatten_dict(lora), flatten_dict(params)
    modules = {path[:-1] for path in adapters}
    wrong = [line for module in sorted(modules) if (line := _misfit(module, adapters, flat))]
    wrong += [
        f"{'.'.join(path)}: only a and b belong here"
        for path in adapters
        if path[-1] not in ("a", "b")
    ]
    if wrong:
        raise BadInput(f"adapters that do not fit the model: {'; '.join(wrong)}")


def _misfit(module: tuple, adapters: dict, flat: dict) -> str | None:
    name, kernel = ".".join(module), flat.get((*module, "kernel"))
    a, b = adapters.get((*module, "a")), adapters.get((*module, "b"))
    if kernel is None:
        return f"{name}: the model has no kernel there"
    if a is None or b is None:
        return f"{name}: needs both a and b"
    if (*a.shape[:-1], b.shape[-1]) != kernel.shape or (*b.shape[:-2], b.shape[-2]) != (
        *a.shape[:-2],
        a.shape[-1],
    ):
        return f"{name}: a {list(a.shape)} and b {list(b.shape)} do not make the kernel's {list(kernel.shape)}"
    return None


def effective_params(params: dict, lora: dict) -> dict:
    """The parameters with W + A B in place of every adapted W (Hu et al., 2106.09685, eq. 3, the scale within B).

    Args:
        params: the parameters.
        lora: adapters at some of their paths.

    Returns:
        A tree like params; kernels keep their type.
    """
    flat, adapters = flatten_dict(params), flatten_dict(lora)
    for path in [path[:-1] for path in adapters if path[-1] == "a"]:
        kernel = flat[*path, "kernel"]
        flat[*path, "kernel"] = (kernel + adapters[*path, "a"] @ adapters[*path, "b"]).astype(
            kernel.dtype
        )
    return unflatten_dict(flat)


class Adapted(nn.Module):
    """A Linen module that reads adapted kernels: `Adapted(inner).apply({"params": p, "lora": lora}, x)`.

    `p` is the inner module's own parameters. The adapters act as a transform of its variables (nn.map_variables) in
    its own scope. Adapters that fit nowhere raise BadInput when the call is traced.
    """

    inner: nn.Module

    def setup(self) -> None:
        nn.share_scope(self, self.inner)

    def __call__(self, *args, **kwargs) -> jax.Array:
        """What the inner module returns for the same arguments."""
        call = nn.map_variables(
            _call,
            ("params", "lora"),
            _adapt,
            init=self.is_initializing(),
            mutable=self.is_initializing(),
        )
        return call(self.inner, *args, **kwargs)


def _call(module: nn.Module, *args, **kwargs):
    return module(*args, **kwargs)


def _adapt(variables: dict) -> dict:
    params, lora = variables.get("params", {}), variables.get("lora", {})
    check_lora_paths(lora, params)
    return {**variables, "params": effective_params(params, lora)}
