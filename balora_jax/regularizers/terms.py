"""The table of terms, with the name, presentation and function of every regularizer.

Schedules, objectives, metrics, progress, plots and notices read this table, and none of them
names a term. `register_term` adds a row.

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
    """The settings of a weight that follows the teacher's confidence (`schedules.adaptive`).

    Attributes:
      least: the smallest share of the weight, for a teacher whose softmax is uniform.
      temperature: T of the teacher's softmax in the measure of confidence.
    """

    least: float
    temperature: float


@dataclass(frozen=True)
class Term:
    """A regularizer with its settings, as the objective reads it.

    Attributes:
      function: per token, (logits [..., V], teacher_logits [..., V] or None, targets [...]) ->
        [...], and the term is the mean over the counted tokens. Per batch, (logits [..., V],
        mask [...]) -> []. Logits are float32, and 0 where they are not counted. The examples of a
        classifier count as tokens: logits [N, D], targets [N].
      per: token or batch.
      needs_teacher: True if the function reads teacher_logits.
      adaptive: the settings of an adaptive weight; None if the weight follows its schedule alone.
    """

    function: TokenFunction | BatchFunction
    per: Per
    needs_teacher: bool = False
    adaptive: Adaptive | None = None


# The terms that act, by name, in the order of the table.
Terms = Mapping[str, Term]


@dataclass(frozen=True)
class Form:
    """A regularizer for language models or for classifiers.

    Attributes:
      make: the section of the configuration -> the term.
      title: the title of its plot.
      unit: the unit of the plotted values.
      sign: -1 if the plot shows the negative of the term.
    """

    make: Callable[[TermConfig], Term]
    title: str
    unit: str
    sign: int = 1


@dataclass(frozen=True)
class Regularizer:
    """A row of the table.

    Attributes:
      name: its section of the configuration and its column in the metrics.
      symbol: its symbol in the paper.
      title: its name in sentences.
      label: its name on the progress line.
      color: the color of its lines in plots.
      line_style: the style of its lines, so that terms with the same schedule can be told apart.
      absence: the effect of leaving it out, for notices.
      nlg: its form for language models.
      nlu: its form for classifiers.
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
        nlg=Form(_token_svd, "Leading singular values / norm", "ratio", sign=-1),
        nlu=Form(_class_svd, "Leading singular values / all", "share", sign=-1),
    ),
}


def make_terms(sections: Mapping[str, TermConfig], family: Literal["nlg", "nlu"]) -> Terms:
    """Make the terms that act.

    Args:
      sections: the section of the configuration of every term that acts, by name.
      family: nlg for language models, nlu for classifiers.

    Returns:
      A term for each section, in the order of the table.
    """
    return {
        name: getattr(row, family).make(sections[name])
        for name, row in REGULARIZERS.items()
        if name in sections
    }
