"""Dense layers and embeddings with their adapters.

Here alone a model meets its adapters: `Dense` and `Embedding` add the adapter's side path when the
`lora` collection holds one for this layer, and are a plain layer otherwise.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from balora_jax.models.layers.dropout import dropout
from balora_jax.models.layers.gathering import gathered, is_worth_gathering
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.recompute import PRODUCT
from balora_jax.models.layers.side_path import side_path, side_path_of_rows
from balora_jax.models.sharding import DATA, FSDP, MeshAxes


class Dense(nn.Module):
    """y = x W + b, plus (x A) B if the `lora` collection holds an adapter for this layer.

    LoRA (Hu et al., arXiv 2106.09685, equation 3); see `side_path`.

    Attributes:
      features: size of the output.
      options: the model's layer options.
      use_bias: True to add a bias.
      out_dtype: element type of the output; that of the computation if None.
      gathers: True to have a kernel and an adapter that are divided over fsdp whole for their
        products; False to leave that to XLA, as for a head, which may be too large.
    """

    features: int
    options: LayerOptions
    use_bias: bool = False
    out_dtype: DTypeLike | None = None
    gathers: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., in] to [..., features]."""
        options = self.options
        kernel_init = nn.initializers.normal(options.init_std)
        kernel_shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, kernel_shape, options.param_dtype)
        x = x.astype(options.dtype)
        mesh = options.mesh if self.gathers and is_worth_gathering(x, options.mesh) else None
        if mesh is None:
            kernel = kernel.astype(options.dtype)
            y = jnp.matmul(x, kernel, preferred_element_type=self.out_dtype)
        else:
            y = _times_gathered(mesh, options.dtype, self.out_dtype, x, kernel)
            # Or remat would not know it for a product.
            y = checkpoint_name(y, PRODUCT)
        lora = self.variables.get("lora", {})
        if lora:
            x = dropout(x, options.lora_dropout, options)
            y = y + side_path(mesh, self.out_dtype, x, lora)
        if self.use_bias:
            bias_shape = (self.features,)
            bias = self.param("bias", nn.initializers.zeros, bias_shape, options.param_dtype)
            y = y + bias.astype(y.dtype)
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _times_gathered(
    mesh: Mesh, dtype: DTypeLike, out_dtype: DTypeLike | None, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Multiply by a kernel that is gathered first, and keep its parts alone.

    Student and teacher then share what is gathered, where XLA would send the parts of a kernel from
    device to device during each of their products.

    Args:
      mesh: the devices that the kernel is divided over.
      dtype: element type of the computation.
      out_dtype: element type of the product, or None for that of the computation.
      x: [..., in], of the element type of the computation.
      kernel: [in, out], of any: a scan over layers then keeps its own input, and nothing besides.

    Returns:
      [..., out].
    """
    whole = gathered(mesh, kernel.astype(dtype))
    return jnp.matmul(x, whole, preferred_element_type=out_dtype)


def _times_gathered_forward(mesh, dtype, out_dtype, x, kernel):
    y = _times_gathered(mesh, dtype, out_dtype, x.value, kernel.value)
    # A frozen kernel has no gradient, and needs no inputs.
    return y, (x.value if kernel.perturbed else None, kernel.value)


def _times_gathered_backward(mesh, dtype, out_dtype, saved, gradient):
    x, kernel = saved
    whole = gathered(mesh, kernel.astype(dtype))
    x_gradient = jnp.matmul(gradient, whole.T, preferred_element_type=dtype)
    if x is None:
        return x_gradient, None
    token_axes = tuple(range(x.ndim - 1))
    kernel_gradient = jnp.tensordot(
        x, gradient, (token_axes, token_axes), preferred_element_type=dtype
    )
    return x_gradient, kernel_gradient.astype(kernel.dtype)


_times_gathered.defvjp(_times_gathered_forward, _times_gathered_backward, symbolic_zeros=True)


class Embedding(nn.Embed):
    """Rows of a table, plus rows of A times B if the `lora` collection holds an adapter for it.

    As PEFT adapts embeddings: a tied head reads the table without the adapter, and nothing is
    dropped.

    Attributes:
      mesh: the devices that ids and table are divided over; None for the default one.
    """

    mesh: Mesh | None = None

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Map int32 ids [...] to [..., size]."""
        if _exchanges(self.mesh, inputs, self.features):
            embedded = self._exchanged(inputs)
        else:
            embedded = super().__call__(inputs)
        lora = self.variables.get("lora", {})
        return embedded + side_path_of_rows(inputs, embedded.dtype, lora) if lora else embedded

    def _exchanged(self, ids: jax.Array) -> jax.Array:
        """Look up rows of which every device holds some columns, then give each device its texts.

        XLA would gather the rows of all texts on every device.
        """
        rest = [None] * (ids.ndim - 1)

        def divided(array: jax.Array, *axes: MeshAxes) -> jax.Array:
            return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, P(*axes)))

        embedded = super().__call__(divided(ids, DATA, *rest))
        embedded = divided(embedded, DATA, *rest, FSDP)
        return divided(embedded, (DATA, FSDP), *rest, None)


def _exchanges(mesh: Mesh | None, ids: jax.Array, size: int) -> bool:
    """Return True if the devices divide texts and columns of the table over the same axis."""
    if mesh is None or not {DATA, FSDP} <= set(mesh.axis_names) or ids.ndim == 0:
        return False
    fsdp = mesh.shape[FSDP]
    if fsdp == 1:
        return False
    return ids.shape[0] % (mesh.shape[DATA] * fsdp) == 0 and size % fsdp == 0


def embed(rows: int, size: int, options: LayerOptions, name: str | None = None) -> Embedding:
    """Create an embedding table with the model's element types and initialization.

    Args:
      rows: entries of the table.
      size: size of an embedding.
      options: the model's layer options.
      name: the module's name; None inside `setup`, where the attribute names it.

    Returns:
      The module; it maps int32 ids [...] to [..., size].
    """
    embedding_init = nn.initializers.normal(options.init_std)
    return Embedding(
        rows,
        size,
        options.dtype,
        options.param_dtype,
        embedding_init=embedding_init,
        mesh=options.mesh,
        name=name,
    )


def activate_and_project(
    activation: Callable[..., jax.Array], dense: Dense, *inputs: jax.Array
) -> jax.Array:
    """Compute dense(activation(*inputs)), and recompute the activation in the backward pass.

    Only `inputs` are kept. The product is not recomputed: nothing in the backward pass needs it.

    Args:
      activation: an elementwise function of the inputs.
      dense: a layer of the calling module.
      *inputs: [..., width] each.

    Returns:
      [..., dense.features].
    """

    def project(dense: Dense, *inputs: jax.Array) -> jax.Array:
        return dense(activation(*inputs))

    return nn.remat(project, prevent_cse=False)(dense, *inputs)
