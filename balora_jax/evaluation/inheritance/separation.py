"""Separation of classes: how far apart a model's hidden states keep different answers."""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples

from balora_jax.evaluation.bias.embeddings import apply_to_tokens
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.evaluation.statistics import Interval, bootstrap_mean

# An answer is a class if so many examples have it; of more classes the most frequent are taken.
AT_LEAST = 10
MOST_CLASSES = 10
# The perplexity of t-SNE, which must be below the number of points.
PERPLEXITY = 30.0


@dataclasses.dataclass(frozen=True)
class Separation:
    """The hidden states of examples by class.

    Attributes:
      silhouette: the mean silhouette of the states, -1 (among the states of another class) to 1
        (in tight groups, one for each class); near 0 where classes overlap. Computed on the states
        themselves and not on the picture. The interval is over examples.
      classes: the names of the classes.
      labels: [examples], the index of each example's class.
      points: [examples, 2], the places of the examples in a t-SNE picture. Only neighborhoods mean
        something there; distances between groups and their sizes do not.
    """

    silhouette: Interval
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    points: tuple[tuple[float, float], ...]


def frequent_answers(answers: Sequence[str]) -> tuple[str, ...]:
    """Choose the answers that are classes, the most frequent first.

    Args:
      answers: one of each example.

    Returns:
      Those of at least AT_LEAST examples, at most MOST_CLASSES; empty if there are fewer than two.
    """
    counts = collections.Counter(answers).most_common(MOST_CLASSES)
    chosen = tuple(answer for answer, count in counts if count >= AT_LEAST)
    return chosen if len(chosen) > 1 else ()


def measure_separation(
    states: np.ndarray, labels: Sequence[int], classes: Sequence[str], *, seed: int = 0
) -> Separation:
    """Measure how far the hidden states of classes lie apart, and place them in a picture.

    Rousseeuw, "Silhouettes" (1987), with Euclidean distances; van der Maaten and Hinton,
    "Visualizing data using t-SNE" (2008), from the principal components. BA-LoRA
    (arXiv 2408.04556) shows the picture with the silhouette.

    Args:
      states: [examples, d], at least three examples.
      labels: [examples], the index of each example's class; at least two classes, and fewer than
        examples.
      classes: their names.
      seed: of t-SNE.

    Returns:
      The separation.
    """
    states = np.asarray(states, np.float64)
    labels = np.asarray(labels)
    perplexity = min(PERPLEXITY, (len(states) - 1) / 3)
    picture = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    points = picture.fit_transform(states.astype(np.float32))
    return Separation(
        silhouette=bootstrap_mean(silhouette_samples(states, labels)),
        classes=tuple(classes),
        labels=tuple(labels.tolist()),
        points=tuple((float(x), float(y)) for x, y in points),
    )


def answer_states(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Compute the last hidden state of each prompt, from which its answer is predicted.

    Args:
      model: the model.
      prompts: the tokens of each; of longer ones than the model reads, the end.

    Returns:
      float32 [prompts, d].
    """
    variables = {"params": model.params, "lora": model.lora or {}}
    function = functools.partial(_last_states, model.model, variables)
    tokens = [prompt[-model.max_length :] for prompt in prompts]
    return apply_to_tokens(
        function, tokens, max_length=model.max_length, batch_tokens=model.batch_tokens
    )


@functools.partial(jax.jit, static_argnums=0)
def _last_states(model: Any, variables: dict, ids: jax.Array, mask: jax.Array) -> jax.Array:
    hidden = model.apply(variables, ids, mask, method="hidden_states").astype(jnp.float32)
    last = jnp.sum(mask, axis=1) - 1
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
