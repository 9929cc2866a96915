"""Answers to texts by an encoder-decoder: a language model's objective over the answers' tokens."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from balora_jax.adapters import AdapterSpec
from balora_jax.data import Batch
from balora_jax.models import shift_right
from balora_jax.objective import causal_lm
from balora_jax.objective.params import LossFn, Params, Parts, Tree
from balora_jax.regularizers.terms import Terms


@dataclasses.dataclass(frozen=True)
class _AnswerModel:
    """An encoder-decoder as a language model of given answers: texts in, logits of answers out.

    Attributes:
      model: the encoder-decoder.
      targets: [batch, answer length], the answers.
    """

    model: Any
    targets: jax.Array

    @property
    def config(self) -> Any:
        """The model's switches."""
        return self.model.config

    @property
    def embedding_path(self) -> tuple[str, ...]:
        """Where the embedding is in the parameters."""
        return self.model.embedding_path

    def apply(
        self, variables: Tree, input_ids: jax.Array, attention_mask: jax.Array, **options: Any
    ) -> jax.Array:
        """Apply the model; the decoder reads the right answer so far."""
        # The decoder looks back only, and padding is at the end: it needs no mask.
        decoder_input_ids = shift_right(self.targets, self.config.start_token_id)
        return self.model.apply(variables, input_ids, attention_mask, decoder_input_ids, **options)


def make_loss(
    model: Any,
    spec: AdapterSpec,
    terms: Terms,
    *,
    head_frozen: bool = True,
    mesh: Mesh | None = None,
) -> LossFn:
    """The loss of a micro-batch, as `causal_lm.make_loss`, over the answers' tokens.

    Both student and teacher read the right answer so far.

    Args:
      model: an encoder-decoder, in its compute dtype and with its dropout rate.
      spec: as for `causal_lm.make_loss`.
      terms: as for `causal_lm.make_loss`.
      head_frozen: as for `causal_lm.make_loss`.
      mesh: as for `causal_lm.make_loss`.
    """

    def loss(
        params: Params, batch: Batch, key: jax.Array | None, weights: Parts
    ) -> tuple[jax.Array, Parts]:
        answers = _AnswerModel(model, batch.targets)
        answer_loss = causal_lm.make_loss(answers, spec, terms, head_frozen=head_frozen, mesh=mesh)
        return answer_loss(params, batch, key, weights)

    return loss


def make_task_loss(
    model: Any, spec: AdapterSpec, *, head_frozen: bool = True, mesh: Mesh | None = None
) -> Callable[[Params, Batch], jax.Array]:
    """The cross-entropy alone, without dropout: (params, batch) -> mean over answers' tokens.

    Args:
      model: as for `make_loss`.
      spec: as for `make_loss`.
      head_frozen: as for `make_loss`.
      mesh: as for `make_loss`.
    """

    def loss(params: Params, batch: Batch) -> jax.Array:
        answers = _AnswerModel(model, batch.targets)
        answer_loss = causal_lm.make_task_loss(answers, spec, head_frozen=head_frozen, mesh=mesh)
        return answer_loss(params, batch)

    return loss
