"""Registered regularizers: functions, and a plugin file with two terms."""

import contextlib
import sys

import jax
import jax.numpy as jnp

from balora_jax.config.plugins import LOADED
from balora_jax.config.regularizers import REGISTERED
from balora_jax.regularizers.terms import REGULARIZERS

PLUGIN = '''
"""Two terms: the reverse divergence from the teacher, and the logits' mean square."""
import jax
import jax.numpy as jnp

import balora_jax


def reverse_kl(logits, teacher_logits, targets):
    q = jax.nn.log_softmax(logits)
    p = jax.nn.log_softmax(teacher_logits)
    return jnp.sum(jnp.exp(q) * (q - p), axis=-1)


def mean_square(logits, mask):
    squares = jnp.mean(jnp.square(logits), axis=-1)
    return jnp.sum(jnp.where(mask, squares, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


balora_jax.register_term(
    "reverse_kl", reverse_kl, needs_teacher=True, label="rkl", unit="nats per token"
)
balora_jax.register_term("mean_square", mean_square, per="batch", title="mean square")
'''


def reverse_kl(logits, teacher_logits, targets):
    """KL(student || teacher) of each token."""
    q = jax.nn.log_softmax(logits)
    p = jax.nn.log_softmax(teacher_logits)
    return jnp.sum(jnp.exp(q) * (q - p), axis=-1)


def margin(logits, teacher_logits, targets):
    """The largest logit minus the target's, of each token."""
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.max(logits, axis=-1) - target_logits


def mean_square(logits, mask):
    """The mean square of the logits at counted positions."""
    squares = jnp.mean(jnp.square(logits), axis=-1)
    return jnp.sum(jnp.where(mask, squares, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


@contextlib.contextmanager
def no_trace():
    """Undo at the end every registration and plugin import made inside the context."""
    registered = dict(REGISTERED)
    rows = dict(REGULARIZERS)
    loaded = dict(LOADED)
    modules = set(sys.modules)
    try:
        yield
    finally:
        for table, before in ((REGISTERED, registered), (REGULARIZERS, rows), (LOADED, loaded)):
            table.clear()
            table.update(before)
        for name in set(sys.modules) - modules:
            if name.startswith("balora_plugin_"):
                del sys.modules[name]
