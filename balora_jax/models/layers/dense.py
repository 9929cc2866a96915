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
from balora_jax.models.layers.options import LayerOptions
from balora_jax.models.layers.recompute import PRODUCT
from balora_jax.models.sharding import DATA, FSDP, TENSOR, MeshAxes


class Dense(nn.Module):
    """y = x W + b, plus (x A) B if the `lora` collection holds `a` and `b` for this layer.

    LoRA (Hu et al., arXiv 2106.09685, equation 3). The adapter's scale is folded into B; the
    difference of two adapters is one adapter of twice the rank.

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
        mesh = options.mesh if self.gathers and _is_worth_gathering(x, options.mesh) else None
        if mesh is None:
            kernel = kernel.astype(options.dtype)
            y = jnp.matmul(x, kernel, preferred_element_type=self.out_dtype)
        else:
            y = _times_gathered(mesh, options.dtype, self.out_dtype, x, kernel)
            # Or remat would not know it for a product.
            y = checkpoint_name(y, PRODUCT)
        if self.has_variable("lora", "a"):
            y = y + self._side_path(mesh, x)
        if self.use_bias:
            bias_shape = (self.features,)
            bias = self.param("bias", nn.initializers.zeros, bias_shape, options.param_dtype)
            y = y + bias.astype(y.dtype)
        return y

    def _side_path(self, mesh: Mesh | None, x: jax.Array) -> jax.Array:
        a = self.get_variable("lora", "a")
        b = self.get_variable("lora", "b")
        x = dropout(x, self.options.lora_dropout, self.options)
        down = _times_factor(mesh, None, x, a)
        return _times_factor(mesh, self.out_dtype, down, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _times_factor(
    mesh: Mesh | None, out_dtype: DTypeLike | None, x: jax.Array, factor: jax.Array
) -> jax.Array:
    """Multiply by a factor of an adapter, with the factor's gradient as x^T @ gradient.

    The gradient is summed over the tokens, and over devices, in the factor's own element type. The
    default gradient is summed in that of x, and is (gradient^T @ x)^T, for which a CPU copies the
    wide side transposed: with the activation's derivative fused into that copy, it takes longer
    than the layer's other products.

    Args:
      mesh: the devices that the factor is divided over, to gather it; None to leave that to XLA.
      out_dtype: element type of the product, or None for that of x.
      x: [..., in].
      factor: [in, out], rounded to the element type of x for the product.

    Returns:
      [..., out].
    """
    whole = _whole(mesh, factor.astype(x.dtype))
    return jnp.matmul(x, whole, preferred_element_type=out_dtype)


def _times_factor_forward(mesh, out_dtype, x, factor):
    return _times_factor(mesh, out_dtype, x, factor), (x, factor)


def _times_factor_backward(mesh, out_dtype, saved, gradient):
    x, factor = saved
    token_axes = tuple(range(x.ndim - 1))
    factor_gradient = jnp.tensordot(
        x, gradient, (token_axes, token_axes), preferred_element_type=factor.dtype
    )
    whole = _whole(mesh, factor.astype(x.dtype))
    x_gradient = jnp.matmul(gradient, whole.T, preferred_element_type=x.dtype)
    return x_gradient, factor_gradient


_times_factor.defvjp(_times_factor_forward, _times_factor_backward)


def _is_worth_gathering(x: jax.Array, mesh: Mesh | None) -> bool:
    """Return True if a mesh divides kernels over fsdp alone, and texts have more than a token.

    A model that generates reads one token a row, which is less to send than a kernel is.
    """
    if mesh is None or FSDP not in mesh.axis_names or x.ndim < 3 or x.shape[-2] == 1:
        return False
    return mesh.shape[FSDP] > 1 and mesh.shape.get(TENSOR, 1) == 1


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
    whole = _whole(mesh, kernel.astype(dtype))
    return jnp.matmul(x, whole, preferred_element_type=out_dtype)


def _times_gathered_forward(mesh, dtype, out_dtype, x, kernel):
    y = _times_gathered(mesh, dtype, out_dtype, x.value, kernel.value)
    # A frozen kernel has no gradient, and needs no inputs.
    return y, (x.value if kernel.perturbed else None, kernel.value)


def _times_gathered_backward(mesh, dtype, out_dtype, saved, gradient):
    x, kernel = saved
    whole = _whole(mesh, kernel.astype(dtype))
    x_gradient = jnp.matmul(gradient, whole.T, preferred_element_type=dtype)
    if x is None:
        return x_gradient, None
    token_axes = tuple(range(x.ndim - 1))
    kernel_gradient = jnp.tensordot(
        x, gradient, (token_axes, token_axes), preferred_element_type=dtype
    )
    return x_gradient, kernel_gradient.astype(kernel.dtype)


_times_gathered.defvjp(_times_gathered_forward, _times_gathered_backward, symbolic_zeros=True)


def _whole(mesh: Mesh | None, kernel: jax.Array) -> jax.Array:
    """A kernel or factor, on every device of a mesh if there is one."""
    if mesh is None:
        return kernel
    return jax.lax.with_sharding_constraint(kernel, NamedSharding(mesh, P()))


class Embedding(nn.Embed):
    """Rows of a table, plus rows of A times B if the `lora` collection holds `a` and `b` for it.

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
        if not self.has_variable("lora", "a"):
            return embedded
        a = jnp.take(self.get_variable("lora", "a"), inputs, axis=0).astype(embedded.dtype)
        b = self.get_variable("lora", "b").astype(embedded.dtype)
        return embedded + a @ b

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
