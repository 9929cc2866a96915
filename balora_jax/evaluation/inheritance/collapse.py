"""Representation collapse: how many directions a model's last hidden states and logits use."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.generation.prompts import batches_by_length
from balora_jax.generation.scoring import make_batch
from balora_jax.hosts import on_host
from balora_jax.models import head
from balora_jax.training.processes import require_same


@dataclasses.dataclass(frozen=True)
class EffectiveRanks:
    """The effective ranks of a model on a text.

    Between 1 (all tokens in one direction) and the smaller of tokens and width. It depends on the
    number of tokens and on a few large directions that every token shares: compare it between
    models on the same text, and not with other texts.

    Attributes:
      hidden: of the last hidden states, [tokens, d].
      logits: of the logits, [tokens, V].
      tokens: the tokens of the text.
    """

    hidden: float
    logits: float
    tokens: int


def measure_ranks(model: LanguageModel, passages: Sequence[str]) -> EffectiveRanks:
    """Measure the effective ranks of a model's hidden states and logits on passages.

    Roy and Vetterli, "The effective rank" (EUSIPCO 2007): the exponential of the entropy of the
    singular values, normalized to sum 1. Those of the hidden states H are the roots of the
    eigenvalues of the d x d matrix H^T H; those of the logits H W the roots of the eigenvalues of
    R W W^T R with R the root of H^T H, so that no matrix has V columns. A bias and a soft-cap of
    the head are left out.

    Args:
      model: the model.
      passages: the text, at least one passage.

    Returns:
      The ranks.
    """
    gram, tokens = _gram(model, passages)
    values, vectors = np.linalg.eigh(gram)
    roots = _roots(values, tokens)
    # Eigenvalues ascend: the roots are of the last ones.
    kept = vectors[:, -len(roots) :]
    root = (kept * roots) @ kept.T
    kernel = np.asarray(on_host(head(model.model, model.params).kernel), np.float64)
    of_logits = np.linalg.eigvalsh(root @ (kernel @ kernel.T) @ root)
    return EffectiveRanks(effective_rank(roots), effective_rank(_roots(of_logits, tokens)), tokens)


def measure_hidden_rank(model: LanguageModel, passages: Sequence[str]) -> float:
    """Measure the effective rank of a model's last hidden states alone, as `measure_ranks` does.

    Args:
      model: the model.
      passages: the text, at least one passage.
    """
    gram, tokens = _gram(model, passages)
    return effective_rank(_roots(np.linalg.eigvalsh(gram), tokens))


def feature_rank(features: np.ndarray) -> float:
    """Compute the effective rank of the features of texts.

    Args:
      features: [texts, d].
    """
    features = np.asarray(features, np.float64)
    return effective_rank(_roots(np.linalg.eigvalsh(features.T @ features), len(features)))


def _roots(eigenvalues: np.ndarray, rows: int) -> np.ndarray:
    """The singular values of a matrix of so many rows, by the eigenvalues of its Gram matrix.

    The others are 0 but for rounding, and the roots of many such are not small together.

    Args:
      eigenvalues: [d], ascending.
      rows: tokens or texts.
    """
    kept = min(rows, len(eigenvalues))
    return np.sqrt(np.clip(eigenvalues[-kept:], 0, None))


def effective_rank(singular_values: np.ndarray) -> float:
    """Compute the exponential of the entropy of normalized singular values.

    Args:
      singular_values: [k], at least 0, one of them above 0.

    Returns:
      A number from 1 to k.
    """
    shares = np.asarray(singular_values, np.float64)
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _gram(model: LanguageModel, passages: Sequence[str]) -> tuple[np.ndarray, int]:
    """H^T H of the last hidden states [d, d], in float64, and the number of tokens."""
    windows = []
    for passage in passages:
        windows += model.windows(model.encode(passage, special=False))
    require_same({"texts": windows})
    lengths = [len(context) + len(continuation) - 1 for context, continuation in windows]
    variables = {"params": model.params, "lora": model.lora or {}}
    total = 0.0
    tokens = 0
    for length, rows, indices in batches_by_length(lengths, model.max_length, model.batch_tokens):
        chosen = [windows[index] for index in indices]
        batch = make_batch(chosen, rows, length)
        count = sum(len(continuation) for _, continuation in chosen)
        tokens += count
        counted = np.zeros(rows * length, np.float32)
        # The positions whose predictions count, each once.
        counted[batch.places[:count]] = 1
        gram = _gram_of_batch(model.model, variables, *batch[:2], counted)
        total = total + np.asarray(on_host(gram), np.float64)
    return total, tokens


@functools.partial(jax.jit, static_argnums=0)
def _gram_of_batch(
    model: Any, variables: dict, input_ids: jax.Array, mask: jax.Array, counted: jax.Array
) -> jax.Array:
    hidden = model.apply(variables, input_ids, mask, method="hidden_states")
    flat = hidden.reshape(-1, hidden.shape[-1]).astype(jnp.float32) * counted[:, None]
    return jnp.matmul(flat.T, flat, precision=jax.lax.Precision.HIGHEST)
