"""Regularizers of one's own: a pure function, a row in the table of terms, a section to set it."""

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.config.regularizers import REGISTERED, add_section
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
# Columns of the metrics that are no terms.
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
    """Add a regularizer to the table of terms; `regularizers.<name>` then sets weight and schedule.

    It works for language models (streamed, its gradient by jax inside each chunk of tokens) and
    classifiers (an example counts as a token), with schedules, metrics, plots and resume.

        def confidence(logits, teacher_logits, targets):
          return jnp.max(jax.nn.softmax(logits), axis=-1)

        balora_jax.register_term("confidence", confidence, label="conf", unit="probability")

    Args:
      name: a Python identifier; the section `regularizers.<name>` and the column in the metrics.
      function: pure and differentiable by jax. Per token: (logits [..., V], teacher_logits
        [..., V] or None, targets [...]) -> [...]; its mean over the counted tokens is minimized.
        Per batch: (logits [..., V], mask [...]) -> []; it takes the whole logits of a micro-batch
        and their memory. Logits are float32, and 0 where nothing is counted.
      per: token or batch.
      needs_teacher: whether teacher_logits are to be computed (per token only); None otherwise.
      title: what plots and notices call it; the name by default.
      label: what the progress line calls it; the name by default.
      unit: of its values, for plots.
      symbol: its symbol.
      color: its color in plots.
      overwrite: replace a registered term of this name (for notebooks).

    Raises:
      BadInput: a name that is taken or is no identifier, or settings that do not fit together.
    """
    if not name.isidentifier() or name in RESERVED or name.startswith("weight_"):
        raise BadInput(
            f"a term cannot be called {name!r}; accepted: a Python identifier that is no other "
            f"column of the metrics ({', '.join(sorted(RESERVED))}, weight_...)"
        )
    if name in REGULARIZERS and not (overwrite and name in REGISTERED):
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
    if name not in REGULARIZERS:
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


def check_registered(terms: Terms, shape: tuple[int, ...], vocabulary: int) -> None:
    """Try every registered term on random logits, before a run begins.

    Args:
      terms: the terms that act; those of the paper are not tried.
      shape: of the tokens tried, such as (2, 3), or (6,) for a classifier's examples.
      vocabulary: V or D.

    Raises:
      BadInput: a function fails, returns another shape than it should, or is not finite, in value
        or gradient.
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
        return term.function(logits, teacher if term.needs_teacher else None, targets)

    expected = () if term.per == "batch" else shape
    try:
        outcome = jax.eval_shape(value_of, logits)
        correct = isinstance(outcome, jax.ShapeDtypeStruct) and outcome.shape == expected
        if correct:
            value, gradient = jax.jit(
                jax.value_and_grad(lambda z: jnp.sum(jnp.asarray(value_of(z), jnp.float32)))
            )(logits)
    except Exception as error:  # whatever the function of a plugin raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(
            f"the term {name} fails on logits {list(logits.shape)} ({reason})"
        ) from error
    if not correct:
        found = list(outcome.shape) if hasattr(outcome, "shape") else type(outcome).__name__
        raise BadInput(
            f"the term {name} returns {found} for logits {list(logits.shape)}; "
            f"accepted: {list(expected)}, as it is per {term.per}"
        )
    for quantity, array in (("value", value), ("gradient", gradient)):
        if not bool(jnp.all(jnp.isfinite(array))):
            raise BadInput(
                f"the term {name} is not finite: its {quantity} on random logits "
                f"{list(logits.shape)}; accepted: a function whose value and gradient are finite"
            )
