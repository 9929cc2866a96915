"""The loss of an encoder-decoder: the objective of a language model over the answers' tokens."""

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
    """An encoder-decoder with fixed answers, which has the interface of a language model.

    Attributes:
      model: the encoder-decoder.
      targets: int [batch, answer length], the answers.
    """

    model: Any
    targets: jax.Array

    @property
    def config(self) -> Any:
        """The configuration of the model."""
        return self.model.config

    @property
    def embedding_path(self) -> tuple[str, ...]:
        """The path of the embedding in the parameters."""
        return self.model.embedding_path

    def apply(
        self, variables: Tree, input_ids: jax.Array, attention_mask: jax.Array, **options: Any
    ) -> jax.Array:
        """Apply the model with teacher forcing: the decoder reads the answers, shifted right."""
        # The decoder is causal, and padding is at the end: it needs no attention mask.
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
    """Make the loss function of a micro-batch, over the answers' tokens.

    The decoders of both student and teacher read the answers (teacher forcing).

    Args:
      model: an encoder-decoder, with its compute dtype and its dropout rate.
      spec: as for `causal_lm.make_loss`.
      terms: as for `causal_lm.make_loss`.
      head_frozen: as for `causal_lm.make_loss`.
      mesh: as for `causal_lm.make_loss`.

    Returns:
      (params, batch, key, weights) -> (loss [], parts).
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
    """Make the function of the cross-entropy alone, without dropout.

    Args:
      model: as for `make_loss`.
      spec: as for `make_loss`.
      head_frozen: as for `make_loss`.
      mesh: as for `make_loss`.

    Returns:
      (params, batch) -> the mean over the answers' tokens [].
    """

    def loss(params: Params, batch: Batch) -> jax.Array:
        answers = _AnswerModel(model, batch.targets)
        answer_loss = causal_lm.make_task_loss(answers, spec, head_frozen=head_frozen, mesh=mesh)
        return answer_loss(params, batch)

    return loss
