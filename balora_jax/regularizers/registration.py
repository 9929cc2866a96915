"""Registration of new regularizers: a pure function becomes a row in the table of terms."""

import dataclasses
import keyword

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.config.regularizers import REGISTERED, RegularizersConfig, add_section
from balora_jax.errors import BadInput
from balora_jax.regularizers.terms import (
    REGULARIZERS,
    BatchFunction,
    Form,
    Per,
    Regularizer,
    Term,
    Terms,
    TokenFunction,
)

# Colors for registered terms, in turn.
COLORS = ("#ff7f0e", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
# Columns of the metrics that are not terms.
RESERVED = frozenset(
    {
        "step",
        "loss",
        "task",
        "tokens",
        "response_tokens",
        "tokens_per_second",
        "learning_rate",
        "gradient_norm",
    }
)
RESERVED_PREFIXES = ("_", "weight_", "eval_", "probe_")


def register_term(
    name: str,
    function: TokenFunction | BatchFunction,
    *,
    per: Per = "token",
    needs_teacher: bool = False,
    title: str | None = None,
    label: str | None = None,
    unit: str | None = None,
    symbol: str | None = None,
    color: str | None = None,
    overwrite: bool = False,
) -> None:
    """Add a regularizer to the table of terms.

    The section `regularizers.<name>` then sets its weight and schedule. It works for language
    models, where it is streamed and jax computes its gradient in each chunk of tokens, and for
    classifiers, where an example counts as a token. Schedules, metrics, plots and resumed runs work
    as for the other terms.

        def confidence(logits, teacher_logits, targets):
          return jnp.max(jax.nn.softmax(logits), axis=-1)

        balora_jax.register_term("confidence", confidence, label="conf", unit="probability")

    Args:
      name: a Python identifier, for the section `regularizers.<name>` and the column in the
        metrics.
      function: a pure function that jax can differentiate. Per token: (logits [..., V],
        teacher_logits [..., V] or None, targets [...]) -> [...]; its mean over the counted tokens
        is minimized. Per batch: (logits [..., V], mask [...]) -> []; it reads the whole logits of a
        micro-batch, and costs their memory. Logits are float32, and 0 where they are not counted.
      per: token or batch.
      needs_teacher: True if the function reads teacher_logits (per token only); otherwise they are
        None.
      title: its name in plots and notices; `name` by default.
      label: its name on the progress line; `name` by default.
      unit: the unit of its values, for plots.
      symbol: its symbol; `name` by default.
      color: its color in plots.
      overwrite: True to replace a registered term of the same name, as in notebooks.

    Raises:
      BadInput: the name is taken or is not an identifier, or the settings do not fit together.
    """
    if not _is_free(name):
        raise BadInput(
            f"a term cannot be called {name!r}; accepted: a Python identifier that is no keyword "
            f"and no other column of the metrics ({', '.join(sorted(RESERVED))}, "
            f"{', '.join(f'{prefix}...' for prefix in RESERVED_PREFIXES)})"
        )
    built_in = name in {field.name for field in dataclasses.fields(RegularizersConfig)}
    if built_in or (name in REGISTERED and not overwrite):
        raise BadInput(f"there is a term {name!r} already; accepted: another name")
    if per not in ("token", "batch"):
        raise BadInput(f"the term {name} is per {per!r}; accepted: token, batch")
    if per == "batch" and needs_teacher:
        raise BadInput(f"the term {name} is per batch and needs the teacher; accepted: per token")
    if not callable(function):
        raise BadInput(f"the term {name} is {function!r}; accepted: a function")

    term = Term(function, per, needs_teacher)
    form = Form(
        make=lambda section: term,
        title=title or name,
        unit=unit or f"per {per}",
    )
    add_section(name)
    REGULARIZERS[name] = Regularizer(
        name=name,
        symbol=symbol or name,
        title=title or name,
        label=label or name,
        color=color or COLORS[(len(REGISTERED) - 1) % len(COLORS)],
        line_style=":",
        absence="it does not act",
        nlg=form,
        nlu=form,
    )


def _is_free(name: str) -> bool:
    """Return True if a section, a field of a dataclass and a column can have this name."""
    if not name.isidentifier() or keyword.iskeyword(name) or name in RESERVED:
        return False
    return not name.startswith(RESERVED_PREFIXES) and name not in {"terms", "acting"}


def check_registered(terms: Terms, shape: tuple[int, ...], vocabulary: int) -> None:
    """Call every registered term on random logits, to find its errors before a run begins.

    Args:
      terms: the terms that act; the terms of the paper are not called.
      shape: the shape of the tokens, such as (2, 3), or (6,) for the examples of a classifier.
      vocabulary: V or D.

    Raises:
      BadInput: a function fails, returns the wrong shape, or its value or gradient is not finite.
    """
    for name in terms:
        if name in REGISTERED:
            _check(name, terms[name], shape, vocabulary)


def _check(name: str, term: Term, shape: tuple[int, ...], vocabulary: int) -> None:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(*shape, vocabulary)), jnp.float32)
    teacher = jnp.asarray(rng.normal(size=(*shape, vocabulary)), jnp.float32)
    targets = jnp.asarray(rng.integers(vocabulary, size=shape), jnp.int32)
    mask = jnp.ones(shape, bool)

    def value_of(logits: jax.Array) -> jax.Array:
        if term.per == "batch":
            return term.function(logits, mask)
        teacher_logits = teacher if term.needs_teacher else None
        return term.function(logits, teacher_logits, targets)

    def total(logits: jax.Array) -> jax.Array:
        return jnp.sum(jnp.asarray(value_of(logits), jnp.float32))

    expected = () if term.per == "batch" else shape
    try:
        result = jax.eval_shape(value_of, logits)
        correct = isinstance(result, jax.ShapeDtypeStruct) and result.shape == expected
        if correct:
            value, gradient = jax.jit(jax.value_and_grad(total))(logits)
    except Exception as error:  # A registered function may raise any error.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(
            f"the term {name} fails on logits {list(logits.shape)} ({reason})"
        ) from error
    if not correct:
        returned = list(result.shape) if hasattr(result, "shape") else type(result).__name__
        raise BadInput(
            f"the term {name} returns {returned} for logits {list(logits.shape)}; "
            f"accepted: {list(expected)}, as it is per {term.per}"
        )
    for quantity, array in (("value", value), ("gradient", gradient)):
        if not bool(jnp.all(jnp.isfinite(array))):
            raise BadInput(
                f"the term {name} is not finite: its {quantity} on random logits "
                f"{list(logits.shape)}; accepted: a function whose value and gradient are finite"
            )
