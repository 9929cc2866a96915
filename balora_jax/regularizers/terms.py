"""The table of terms: every regularizer's name, how it is shown, and how it is computed.

Schedules, objectives, metrics, progress, plots and notices read this table; none of them names a
term. `register_term` adds a row to it.

Notation: l(t) the weight of a term at step t, Z_F the student's logits, Z_P the teacher's, V the
vocabulary or D the classes (the last axis), N the examples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import jax

from balora_jax.config import ConsistencyConfig, DiversityConfig, SvdConfig, TermConfig
from balora_jax.regularizers.nlg import Divergence, LeadingShare, NegativeEntropy
from balora_jax.regularizers.nlu import Covariance, NuclearShare, UnitDistance

Per = Literal["token", "batch"]
TokenFunction = Callable[[jax.Array, jax.Array | None, jax.Array], jax.Array]
BatchFunction = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Adaptive:
    """A weight that follows the teacher's confidence.

    Attributes:
      least: the least share of the weight, where the teacher knows nothing.
      temperature: T of the teacher's softmax, whose entropy is measured.
    """

    least: float
    temperature: float


@dataclass(frozen=True)
class Term:
    """A regularizer with its settings, as the objective takes it.

    Attributes:
      function: per token, (logits [..., V], teacher_logits [..., V] or None, targets [...]) ->
        [...], whose mean over the counted tokens is the term; per batch, (logits [..., V],
        mask [...]) -> []. Logits are float32, and 0 where nothing is counted. A classifier's
        examples count as tokens: logits [N, D], targets [N].
      per: token or batch.
      needs_teacher: whether the function reads teacher_logits.
      adaptive: how the weight follows the teacher; None where it follows its schedule alone.
    """

    function: TokenFunction | BatchFunction
    per: Per
    needs_teacher: bool = False
    adaptive: Adaptive | None = None


# The terms that act, by name; in the table's order.
Terms = Mapping[str, Term]


@dataclass(frozen=True)
class Form:
    """A regularizer for one kind of model.

    Attributes:
      make: its section of the configuration -> the term.
      title: what its plot is called.
      unit: of the plotted values.
      sign: -1 where the plot shows the negative of the term.
    """

    make: Callable[[TermConfig], Term]
    title: str
    unit: str
    sign: int = 1


@dataclass(frozen=True)
class Regularizer:
    """A row of the table.

    Attributes:
      name: its section in the configuration and its column in the metrics.
      symbol: its symbol in the paper.
      title: what sentences call it.
      label: what the progress line calls it.
      color: of its lines in plots.
      line_style: likewise; two terms often share a schedule, and one would hide the other.
      absence: what a run lacks without it, for notices.
      nlg: how a language model's is computed.
      nlu: how a classifier's is computed.
    """

    name: str
    symbol: str
    title: str
    label: str
    color: str
    line_style: str
    absence: str
    nlg: Form
    nlu: Form


def _adaptive(section: ConsistencyConfig) -> Adaptive | None:
    if section.schedule != "adaptive":
        return None
    return Adaptive(section.final, section.temperature)


def _consistency(section: ConsistencyConfig) -> Term:
    function = Divergence(section.temperature) if section.form == "kl" else UnitDistance()
    return Term(function, "token", needs_teacher=True, adaptive=_adaptive(section))


def _token_diversity(section: DiversityConfig) -> Term:
    return Term(NegativeEntropy(section.top_k), "token")


def _class_diversity(section: DiversityConfig) -> Term:
    return Term(Covariance(), "batch")


def _token_svd(section: SvdConfig) -> Term:
    share = LeadingShare(section.k, section.norm, section.method, section.groups)
    return Term(share, "batch")


def _class_svd(section: SvdConfig) -> Term:
    return Term(NuclearShare(section.k), "batch")


REGULARIZERS: dict[str, Regularizer] = {
    "consistency": Regularizer(
        name="consistency",
        symbol="L_CR",
        title="consistency",
        label="kl",
        color="#d62728",
        line_style="-",
        absence="no teacher runs, and nothing keeps the model near the pre-trained one",
        nlg=Form(_consistency, "KL to the teacher (times T²)", "nats per token"),
        nlu=Form(_consistency, "Distance from the teacher", "per example"),
    ),
    "diversity": Regularizer(
        name="diversity",
        symbol="L_DR",
        title="diversity",
        label="div",
        color="#2ca02c",
        line_style="-",
        absence="nothing keeps the outputs spread out",
        nlg=Form(_token_diversity, "Entropy of the top-K softmax", "nats per token", sign=-1),
        nlu=Form(_class_diversity, "Squared covariance between classes", "squared logits"),
    ),
    "svd": Regularizer(
        name="svd",
        symbol="L_SVDR",
        title="SVD",
        label="svd",
        color="#9467bd",
        line_style="--",
        absence="nothing concentrates the logits on their leading directions",
        nlg=Form(_token_svd, "Leading singular values / norm", "share", sign=-1),
        nlu=Form(_class_svd, "Leading singular values / all", "share", sign=-1),
    ),
}


def make_terms(sections: Mapping[str, TermConfig], family: Literal["nlg", "nlu"]) -> Terms:
    """The terms that act, with their settings.

    Args:
      sections: the configuration of every term that acts, by name.
      family: nlg for language models, nlu for classifiers.

    Returns:
      A term for each section, in the table's order.
    """
    return {
        name: getattr(row, family).make(sections[name])
        for name, row in REGULARIZERS.items()
        if name in sections
    }
