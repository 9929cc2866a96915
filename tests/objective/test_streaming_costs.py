"""The streamed objective's costs: products with the head, memory, and traffic between devices."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from streaming_cases import assert_same, random_batch, random_head, streamed_loss
from term_cases import PAPER, only

VOCABULARY = 3200
WIDTH = 12
CHUNK = 5


def head_products(jaxpr):
    """Count products of a chunk's tokens with [d, V] by multiplications, a loop's body once."""
    products = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, right = equation.invars
            contracted = equation.params["dimension_numbers"][0][0]
            if VOCABULARY in left.aval.shape or VOCABULARY in right.aval.shape:
                summed = np.prod([left.aval.shape[axis] for axis in contracted])
                products += equation.outvars[0].aval.size * summed / (CHUNK * WIDTH * VOCABULARY)
        products += sum(head_products(part) for part in jax.core.jaxprs_in_params(equation.params))
    return products


def program_of(terms, with_gradient):
    """The jaxpr of the streamed loss, with or without its gradient."""
    hidden, teacher, targets, mask = random_batch(width=WIDTH, vocabulary=VOCABULARY)
    head = random_head(width=WIDTH, vocabulary=VOCABULARY)
    factor = jnp.eye(WIDTH)

    def loss(states):
        return streamed_loss(
            states, teacher, head, targets, mask, terms, factor=factor, chunk_size=CHUNK
        )[0]

    return jax.make_jaxpr(jax.value_and_grad(loss) if with_gradient else loss)(hidden).jaxpr


ADAPTIVE = dataclasses.replace(
    PAPER["2026"], consistency=dataclasses.replace(PAPER["2026"].consistency, schedule="adaptive")
)


@pytest.mark.parametrize(
    ("terms", "with_gradient", "products"),
    [
        (PAPER["2026"], True, 3),
        (PAPER["2024"], True, 3),
        (PAPER["2026"], False, 2),
        (only("diversity", "svd"), True, 2),
        (only(), True, 2),
        (only(), False, 1),
        (ADAPTIVE, True, 4),
    ],
)
def test_products_with_the_head(terms, with_gradient, products):
    assert head_products(program_of(terms, with_gradient)) == products


def test_memory_does_not_grow_by_tokens_times_vocabulary():
    width = 16
    vocabulary = 8192
    chunk = 32
    head = random_head(width=width, vocabulary=vocabulary)
    factor = jnp.eye(width)

    def bytes_for(tokens):
        def loss(states, teacher, targets, mask):
            return streamed_loss(
                states, teacher, head, targets, mask, PAPER["2026"], chunk_size=chunk, factor=factor
            )[0]

        states = jax.ShapeDtypeStruct((1, tokens, width), jnp.float32)
        whole = (
            jax.ShapeDtypeStruct((1, tokens), jnp.int32),
            jax.ShapeDtypeStruct((1, tokens), jnp.bool_),
        )
        compiled = jax.jit(jax.value_and_grad(loss)).lower(states, states, *whole).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few = bytes_for(256)
    many = bytes_for(1024)
    assert few > 3 * chunk * vocabulary * 4 / 2
    assert many - few < 0.05 * (1024 - 256) * vocabulary * 4


def on_mesh(sizes, function, arrays, head):
    """The function's result and compiled text, with its arrays on a mesh of these sizes."""
    mesh = jax.make_mesh(sizes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    by_token = NamedSharding(mesh, P(("data", "fsdp")))
    kernel = jax.device_put(head.kernel, NamedSharding(mesh, P("fsdp", "tensor")))
    bias = head.bias
    if bias is not None:
        bias = jax.device_put(bias, NamedSharding(mesh, P("tensor")))
    head = head.replace(kernel=kernel, bias=bias)
    arrays = [jax.device_put(array, by_token) for array in arrays]
    jitted = jax.jit(lambda head, *arrays: function(mesh, head, *arrays))
    compiled = jitted.lower(head, *arrays).compile()
    return compiled(head, *arrays), compiled.as_text()


@pytest.mark.parametrize("version", PAPER)
@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)])
def test_eight_devices_equal_one_and_never_gather_logits(sizes, version):
    arrays = random_batch(1, shape=(8, 9), width=16, vocabulary=VOCABULARY)
    head = random_head(1, width=16, vocabulary=VOCABULARY, bias=True)

    def function(mesh, head, hidden, teacher, targets, mask):
        def loss(states):
            return streamed_loss(
                states, teacher, head, targets, mask, PAPER[version], chunk_size=5, mesh=mesh
            )

        return jax.value_and_grad(loss, has_aux=True)(hidden)

    expected = jax.jit(lambda head, *arrays: function(None, head, *arrays))(head, *arrays)
    actual, program = on_mesh(sizes, function, arrays, head)
    assert_same(actual, expected, gradient=2e-5)
    gathered = re.findall(r"f32\[([\d,]+)\]\S* all-gather\(", program)
    for shape in gathered:
        numbers = [int(number) for number in shape.split(",")]
        assert VOCABULARY // sizes[2] not in numbers[1:] or numbers[0] in (16, 17), shape
        assert np.prod(numbers) < 8 * 9 * VOCABULARY / 2


def test_the_svd_term_is_equal_on_one_and_eight_devices():
    arrays = random_batch(2, shape=(8, 9), width=16, vocabulary=VOCABULARY)
    head = random_head(2, width=16, vocabulary=VOCABULARY)
    terms = only("svd")
    terms = dataclasses.replace(terms, svd=dataclasses.replace(terms.svd, k=3, groups=8))

    def function(mesh, head, hidden, teacher, targets, mask):
        arguments = head, targets, mask, terms, {"svd": 1.0}
        _, parts = streamed_loss(hidden, None, *arguments, mesh=mesh)
        return parts["svd"]

    actual, _ = on_mesh((8, 1, 1), function, arrays, head)
    np.testing.assert_allclose(actual, function(None, head, *arrays), rtol=1e-5)
