"""The findings of an audit on one run of a causal language model."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from balora_jax import data
from balora_jax.config import RunConfig
from balora_jax.evaluation.bias.counterfactuals import measure_gaps
from balora_jax.evaluation.bias.tasks import measures_of_slots
from balora_jax.evaluation.inheritance.classes import (
    ClassBalance,
    measure_balance,
    predicted_answers,
)
from balora_jax.evaluation.inheritance.collapse import EffectiveRanks, measure_ranks
from balora_jax.evaluation.inheritance.drift import Drift, mean_divergence, measure_drift
from balora_jax.evaluation.inheritance.geometry import Geometry, measure_geometry
from balora_jax.evaluation.inheritance.noise import NoiseFit, Pair, measure_noise
from balora_jax.evaluation.inheritance.rewind import (
    RewindCurve,
    RewindPoint,
    best_trade_off,
    rewind,
)
from balora_jax.evaluation.inheritance.separation import (
    Separation,
    answer_states,
    frequent_answers,
    measure_separation,
)
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.evaluation.statistics import Interval
from balora_jax.evaluation.tiny_world.evaluator import tiny_world_measures
from balora_jax.evaluation.tiny_world.probes import Measure

# The field of a training row with the right answer, where the given one may be wrong.
TRUTH = "truth"
# The measures of the rewind curve.
LOSS = "held-out loss"
EXACT = "answers right"
DRIFT = "drift (KL)"


@dataclasses.dataclass(frozen=True)
class AnswerClasses:
    """Held-out prompts whose right answers are frequent, and so can be taken as classes.

    Attributes:
      names: the answers.
      answers: their tokens.
      prompts: the tokens of each prompt.
      labels: [prompts], the index of each right answer.
    """

    names: tuple[str, ...]
    answers: Sequence[Sequence[int]]
    prompts: Sequence[Sequence[int]]
    labels: Sequence[int]

    @classmethod
    def of(cls, model: LanguageModel, pairs: Sequence[Pair]) -> "AnswerClasses | None":
        """Choose the classes.

        Args:
          model: its tokenizer is used.
          pairs: held-out prompts and answers.

        Returns:
          The classes; None if fewer than two answers are frequent.
        """
        texts = [_decode(model, answer) for _, answer in pairs]
        names = frequent_answers(texts)
        if not names:
            return None
        chosen = [index for index, text in enumerate(texts) if text in names]
        return cls(
            names,
            [pairs[texts.index(name)][1] for name in names],
            [pairs[index][0] for index in chosen],
            [names.index(texts[index]) for index in chosen],
        )

    def balance(self, model: LanguageModel) -> ClassBalance:
        """Count the likeliest of the answers."""
        predictions = predicted_answers(model, self.prompts, self.answers)
        return measure_balance(predictions, self.labels, self.names)

    def separation(self, model: LanguageModel) -> Separation:
        """Measure how far apart the model keeps the prompts."""
        return measure_separation(answer_states(model, self.prompts), self.labels, self.names)


@dataclasses.dataclass(frozen=True)
class State:
    """The state of one model, on the texts of an audit.

    Attributes:
      ranks: the effective ranks on the general text.
      balance: of the answers to held-out prompts among the frequent ones; None if fewer than two
        are frequent.
      separation: of the most frequent right answers of the held-out set; None likewise.
      gaps: the intervals of the templates by name; empty without templates.
      world: the tiny world's measures by name; empty for other data.
    """

    ranks: EffectiveRanks
    balance: ClassBalance | None
    separation: Separation | None
    gaps: dict[str, Interval]
    world: dict[str, Measure]


@dataclasses.dataclass(frozen=True)
class Findings:
    """The findings on one run, beside its base.

    Attributes:
      name: the run's name on the page.
      method: ba-lora, pissa, lora or full.
      step: the update of the checkpoint.
      before: the state of the base.
      after: the state of the run's model.
      held_out: the held-out examples that were read.
      drift: on general text.
      geometry: of the change of each kernel; None for method full.
      noise: the fit to wrong answers of the training set.
      suspects: the texts of its suspects, as the model reads them.
      curve: the measures at parts of the learned change; None for method full, and for modules that
        were trained whole.
      best: the point of the curve that keeps most of the gain with the least drift; None where
        there was no gain, no held-out set or no curve.
    """

    name: str
    method: str
    step: int
    before: State
    after: State
    held_out: int
    drift: Drift
    geometry: Geometry | None
    noise: NoiseFit
    suspects: tuple[str, ...]
    curve: RewindCurve | None
    best: RewindPoint | None

    def to_json(self) -> dict[str, Any]:
        """The findings as an object."""
        geometry = None if self.geometry is None else self.geometry.to_json()
        return dataclasses.asdict(self) | {"drift": self.drift.to_json(), "geometry": geometry}


def find(
    name: str,
    config: RunConfig,
    step: int,
    tuned: LanguageModel,
    base: LanguageModel,
    passages: Sequence[str],
    templates: Sequence[Any],
    limit: int,
    before: State | None = None,
) -> Findings:
    """Measure one run beside its base.

    Args:
      name: the run's name on the page.
      config: the run's configuration.
      step: the update of the checkpoint.
      tuned: the run's model.
      base: the model before fine-tuning.
      passages: general text.
      templates: from `read_templates`; empty for none.
      limit: the most examples of a set.
      before: the state of the base, where another run with the same texts has measured it.

    Returns:
      The findings.

    Raises:
      BadInput: the run's data cannot be read.
    """
    held_out = list(_held_out_pairs(config, tuned, limit))
    curve = None
    best = None
    geometry = None
    if tuned.lora is not None and config.adapter.modules_to_save is None:
        curve = _rewind(tuned, base, passages, held_out)
        if LOSS in curve.points[0].measures:
            best = best_trade_off(curve, loss=_task_loss(curve), drift=DRIFT)
    if tuned.lora is not None:
        geometry = measure_geometry(tuned.params, tuned.lora)
    classes = AnswerClasses.of(tuned, held_out)
    examples, wrong = _training_pairs(config, tuned, limit)
    noise = measure_noise(base, tuned, examples, wrong)
    return Findings(
        name=name,
        method=config.method,
        step=step,
        before=before or _state(config, base, passages, templates, classes),
        after=_state(config, tuned, passages, templates, classes),
        held_out=len(held_out),
        drift=measure_drift(base, tuned, passages),
        geometry=geometry,
        noise=noise,
        suspects=tuple(_text(tuned, examples[suspect.example]) for suspect in noise.suspects),
        curve=curve,
        best=best,
    )


def _state(
    config: RunConfig,
    model: LanguageModel,
    passages: Sequence[str],
    templates: Sequence[Any],
    classes: AnswerClasses | None,
) -> State:
    return State(
        ranks=measure_ranks(model, passages),
        balance=None if classes is None else classes.balance(model),
        separation=None if classes is None else classes.separation(model),
        gaps=measures_of_slots(measure_gaps(model, templates)) if templates else {},
        world=tiny_world_measures(config.data, model),
    )


def _task_loss(curve: RewindCurve) -> Callable[[Mapping[str, float]], float]:
    """The share of wrong answers, or the held-out loss where no answer is ever right."""
    if any(point.measures[EXACT] > 0 for point in curve.points):
        return lambda measures: 1 - measures[EXACT]
    return lambda measures: measures[LOSS]


def _rewind(
    tuned: LanguageModel,
    base: LanguageModel,
    passages: Sequence[str],
    held_out: Sequence[Pair],
) -> RewindCurve:
    """Measure held-out answers and drift at parts of the learned change."""

    def measure(lora: Any) -> dict[str, float]:
        part = tuned.with_lora(lora)
        measures = {DRIFT: mean_divergence(base, part, passages)}
        if held_out:
            scores = [score for _, score in part.scores(held_out)]
            tokens = sum(score.tokens for score in scores)
            measures[LOSS] = -sum(score.log_likelihood for score in scores) / tokens
            measures[EXACT] = float(np.mean([score.greedy for score in scores]))
        return measures

    return rewind(measure, tuned.lora)


def _held_out_pairs(config: RunConfig, model: LanguageModel, limit: int) -> Iterator[Pair]:
    """The tokens of held-out prompts and answers; none without a held-out set."""
    if not config.data.holds_out:
        return
    examples = data.prepare(config.data, model.tokenizer, split="eval")
    for index in range(min(limit, len(examples))):
        yield _pair(examples, index)


def _training_pairs(
    config: RunConfig, model: LanguageModel, limit: int
) -> tuple[list[Pair], list[Pair]]:
    """The tokens of the first training prompts and answers, and of the first known-wrong ones.

    An answer is known to be wrong if its row has a field `truth` with another text.
    """
    pairs: list[Pair] = []
    wrong: list[Pair] = []
    for source in config.data.sources:
        examples = data.prepare(source, model.tokenizer, split="train")
        rows = data.read_rows(source)
        fields = source.fields or examples.recognized
        response = fields.get("response", "response")
        pairs += [_pair(examples, index) for index in range(min(limit, len(examples)))]
        if TRUTH not in rows.columns or response not in rows.columns:
            continue
        given = list(rows)
        wrong += [
            _pair(examples, index)
            for index, row in enumerate(examples.rows)
            if is_wrong(given[row], response)
        ]
    return pairs[:limit], wrong[:limit]


def is_wrong(row: Mapping[str, Any], answer: str) -> bool:
    """Return True if a training row's answer is known to be wrong.

    Args:
      row: of the training set.
      answer: the field of its answer.
    """
    return row.get(TRUTH) not in (None, row[answer])


def _pair(examples: data.Examples, index: int) -> Pair:
    """The tokens of a prompt and its answer."""
    prompt, answer = examples.pair(index)
    return prompt.tolist(), answer.tolist()


def _text(model: LanguageModel, pair: Pair) -> str:
    prompt, answer = (_decode(model, part) for part in pair)
    return f"{prompt} ⟶ {answer}"


def _decode(model: LanguageModel, tokens: Sequence[int]) -> str:
    return model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
