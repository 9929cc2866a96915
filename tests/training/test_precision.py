"""Every product of a run's update has the precision that the configuration names."""

import jax
import jax.numpy as jnp
import pytest
from jax.lax import Precision
from jaxpr_cases import products_of

from balora_jax import models
from balora_jax.config.parse import read_config
from balora_jax.linalg.singular_values import singular_values
from balora_jax.regularizers import nlu
from balora_jax.runs.setup import batch_shapes, build_setup
from balora_jax.training.precision import at_precision
from balora_jax.training.sharding import make_mesh

EXPECTED = {"float32": Precision.HIGHEST, "tf32": Precision.HIGH, "bfloat16": None}


def _products(run_arguments, tiny_llama, tmp_path, precision):
    arguments = ["--training.precision", precision, "--training.accumulation", "1"]
    config = read_config(run_arguments(tmp_path, *arguments))
    model = models.load_model(tiny_llama)
    setup = build_setup(config, model, make_mesh(config.mesh), steps=6)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype),
        batch_shapes(config, None, 32),
    )
    return products_of(setup.step, setup.state, setup.frozen, shapes)


@pytest.mark.parametrize("precision", EXPECTED)
def test_products_with_weights(run_arguments, tiny_llama, tmp_path, precision):
    found = _products(run_arguments, tiny_llama, tmp_path, precision)
    assert len(found) > 40
    used = {product.precision for product in found}
    # The SVD term's own products are exact in any case.
    assert used == {EXPECTED[precision], Precision.HIGHEST}
    element_types = {str(product.inputs[0]) for product in found}
    assert ("bfloat16" in element_types) == (precision == "bfloat16")


def test_the_gradients_of_adapters_are_sums_in_float32(run_arguments, tiny_llama, tmp_path):
    found = _products(run_arguments, tiny_llama, tmp_path, "bfloat16")
    # Of A [32, 4], and of B [4, 32] and [4, 48], also in the delta form.
    gradients = [product for product in found if product.shape in [(32, 4), (4, 32), (4, 48)]]
    of_tokens = [product for product in gradients if "bfloat16" in map(str, product.inputs)]
    assert of_tokens and {str(product.dtype) for product in of_tokens} == {"float32"}


@pytest.mark.parametrize(
    "function",
    [
        nlu.diversity,
        lambda logits: nlu.svd(logits, k=2),
        lambda logits: jnp.sum(singular_values(logits)),
    ],
    ids=["covariance", "term of singular values", "singular values"],
)
def test_a_classifier_s_terms_are_exact_in_any_case(function):
    gradient = at_precision(jax.grad(lambda logits: jnp.sum(function(logits))), "bfloat16")
    found = products_of(gradient, jax.ShapeDtypeStruct((12, 4), jnp.float32))
    assert found and {product.precision for product in found} == {Precision.HIGHEST}
