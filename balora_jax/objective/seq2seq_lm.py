"""Answers to texts by an encoder-decoder: the objective of a language model over the answer's tokens."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from balora_jax import generation
from balora_jax.adapters import AdapterSpec
from balora_jax.config import RegularizersConfig
from balora_jax.data import Batch
from balora_jax.models import shift_right
from balora_jax.objective import causal_lm
from balora_jax.training.step import LossFn, Parts

Tree = Any


@dataclasses.dataclass(frozen=True)
class _Answering:
    """A text-to-text model as the language model of some answers: it reads the texts, and writes at their positions.

    Attributes:
      model: the encoder-decoder.
      targets: [batch, answer length], what it is to write.
    """

    model: Any
    targets: jax.Array

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def embedding_path(self) -> tuple[str, ...]:
        return self.model.embedding_path

    def apply(
        self, variables: Tree, input_ids: jax.Array, attention_mask: jax.Array, **options: Any
    ) -> jax.Array:
        # The decoder looks back only, and padding is at the end: it needs no mask.
        led = shift_right(self.targets, self.config.start_token_id)
        return self.model.apply(variables, input_ids, attention_mask, led, **options)


def make_loss(
    model: Any,
    spec: AdapterSpec,
    terms: RegularizersConfig,
    *,
    head_frozen: bool = True,
    mesh: Mesh | None = None,
) -> LossFn:
    """The loss of a micro-batch, as `causal_lm.make_loss`, whose tokens are those of the answers.

    Both student and teacher read the right answer so far. `batch` has input_ids and attention_mask [examples, length],
    targets and mask [examples, answer length].
    """

    def loss(
        params: Tree, batch: Batch, key: jax.Array | None, weights: Parts
    ) -> tuple[jax.Array, Parts]:
        answering = _Answering(model, batch.targets)
        one = causal_lm.make_loss(answering, spec, terms, head_frozen=head_frozen, mesh=mesh)
        return one(params, batch, key, weights)

    return loss


def make_task_loss(
    model: Any, spec: AdapterSpec, *, head_frozen: bool = True, mesh: Mesh | None = None
):
    """The cross-entropy alone, without dropout: (params, batch) -> mean over the answers' tokens."""

    def loss(params: Tree, batch: Batch) -> jax.Array:
        answering = _Answering(model, batch.targets)
        return causal_lm.make_task_loss(answering, spec, head_frozen=head_frozen, mesh=mesh)(
            params, batch
        )

    return loss


def make_answers(
    model: Any, spec: AdapterSpec, *, max_tokens: int, eos_ids: Sequence[int]
) -> Callable[[Tree, Batch], generation.Generated]:
    """What the student writes, the likeliest token at a time: (params, batch) -> tokens and lengths."""

    def answers(params: Tree, batch: Batch) -> generation.Generated:
        lora, texts = causal_lm.student(params, spec), (batch.input_ids, batch.attention_mask)
        return generation.answer(
            model, params["base"], lora, *texts, max_new_tokens=max_tokens, eos_ids=eos_ids
        )

    return answers
