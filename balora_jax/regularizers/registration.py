"""Registration of new regularizers: a pure function becomes a row in the table of terms."""

import dataclasses
import keyword

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.config.regularizers import REGISTERED, RegularizersConfig, add_section
from balora_jax.errors import BadInput, reason_of
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
RESERVED_PREFIXES = ("_", "weight_", "unsettled_", "eval_", "probe_")


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

    term = Term(Checked(name, function, per), per, needs_teacher)
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
    if not isinstance(name, str) or not name.isascii() or not name.isidentifier():
        return False
    if keyword.iskeyword(name) or name in RESERVED or name in {"terms", "acting"}:
        return False
    return not name.startswith(RESERVED_PREFIXES)


@dataclasses.dataclass(frozen=True)
class Checked:
    """A registered function whose mistakes are told in one sentence, whenever it is traced.

    Attributes:
      name: the term's.
      function: as registered.
      per: token or batch.
    """

    name: str
    function: TokenFunction | BatchFunction
    per: Per

    def __call__(self, logits: jax.Array, *inputs: jax.Array | None) -> jax.Array:
        """Call the function.

        Args:
          logits: [..., V], float32.
          *inputs: teacher_logits and targets, or the mask.

        Returns:
          [...], or [] per batch.

        Raises:
          BadInput: the function fails, or returns another shape or no floating-point numbers.
        """
        shape = list(logits.shape)
        try:
            value = self.function(logits, *inputs)
        except (BadInput, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever the function raises, SystemExit too
            hint = ""
            if self.per == "token" and inputs[0] is None:
                hint = "; it is registered without needs_teacher, so teacher_logits is None"
            raise BadInput(
                f"the term {self.name} fails on logits {shape} ({reason_of(error)}){hint}"
            ) from error
        if not isinstance(value, jax.Array | np.ndarray | np.number | float | int):
            raise BadInput(
                f"the term {self.name} returns {type(value).__name__} for logits {shape}; "
                "accepted: an array"
            )
        value = jnp.asarray(value)
        expected = () if self.per == "batch" else logits.shape[:-1]
        if value.shape != expected:
            raise BadInput(
                f"the term {self.name} returns {list(value.shape)} for logits {shape}; "
                f"accepted: {list(expected)}, as it is per {self.per}"
            )
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise BadInput(
                f"the term {self.name} returns {value.dtype} for logits {shape}; "
                "accepted: floating-point numbers, through which a gradient can flow"
            )
        return value


def check_registered(terms: Terms, shape: tuple[int, ...], vocabulary: int) -> None:
    """Try every registered term on random logits, before a run begins.

    Also on logits that are the teacher's, as in the first update of every run.

    Args:
      terms: the terms that act; those of the paper are not tried.
      shape: the shape of the tokens, such as (2, 3), or (6,) for a classifier's examples.
      vocabulary: V or D.

    Raises:
      BadInput: a function fails, returns another shape than it should, or is not finite, in value
        or gradient.
    """
    for name, term in terms.items():
        if name in REGISTERED:
            _check(name, term, shape, vocabulary)


def _check(name: str, term: Term, shape: tuple[int, ...], vocabulary: int) -> None:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(*shape, vocabulary)), jnp.float32)
    other_logits = jnp.asarray(rng.normal(size=(*shape, vocabulary)), jnp.float32)
    targets = jnp.asarray(rng.integers(vocabulary, size=shape), jnp.int32)
    mask = jnp.ones(shape, bool)

    def total(logits: jax.Array, teacher_logits: jax.Array | None) -> jax.Array:
        if term.per == "batch":
            value = term.function(logits, mask)
        else:
            value = term.function(logits, teacher_logits, targets)
        return jnp.sum(value.astype(jnp.float32))

    cases = {"random logits": None}
    if term.needs_teacher:
        cases = {
            "random logits": other_logits,
            "logits that are the teacher's, as in the first update,": logits,
        }
    for case, teacher_logits in cases.items():
        value, gradient = jax.jit(jax.value_and_grad(total))(logits, teacher_logits)
        for quantity, array in (("value", value), ("gradient", gradient)):
            if not bool(jnp.all(jnp.isfinite(array))):
                raise BadInput(
                    f"the term {name} is not finite: its {quantity} on {case} "
                    f"{list(logits.shape)}; accepted: a function whose value and gradient are "
                    "finite"
                )
