"""Notices on regularizers that cannot act as configured, each with the reason and the remedy."""

from collections.abc import Sequence

from balora_jax.config import RegularizersConfig, RunConfig, TermConfig
from balora_jax.regularizers.nlg import Divergence, LeadingShare, NegativeEntropy
from balora_jax.regularizers.nlu import Covariance, NuclearShare
from balora_jax.regularizers.terms import REGULARIZERS, Terms
from balora_jax.training.records import StepRecord
from balora_jax.training.setup import TrainSetup
from balora_jax.training.term_schedules import section_schedule

# Of the task's loss: a weighted term below it changes next to nothing.
NEGLIGIBLE = 1e-4


def inactive_terms(config: RunConfig, setup: TrainSetup, *, steps: int, counted: int) -> list[str]:
    """List the notices for a run.

    Args:
      config: the configuration of the run.
      setup: the setup of the run.
      steps: updates in the run.
      counted: the most tokens of an example that the loss counts.

    Returns:
      The notices; an empty list if every regularizer acts.
    """
    regularizers = config.regularizers
    if config.method != "ba-lora":
        return unused(config.method, regularizers)
    training = config.training
    if config.model.task == "sequence-classification":
        return classifier(
            regularizers,
            setup.terms,
            steps=steps,
            examples=training.batch_size,
            classes=setup.model.labels,
        )
    model_config = setup.model.config
    return language_model(
        regularizers,
        setup.terms,
        steps=steps,
        tokens=training.batch_size // training.accumulation * counted,
        hidden_size=model_config.hidden_size,
        vocabulary=model_config.vocab_size,
        softcapped=model_config.final_softcap is not None,
        head_frozen=setup.head_frozen,
    )


def unused(method: str, regularizers: RegularizersConfig) -> list[str]:
    """List the notice for regularizers that are configured under a method without regularizers.

    Args:
      method: ba-lora, pissa, lora or full.
      regularizers: the section of the configuration.

    Returns:
      The notice; an empty list if there is none.
    """
    if method == "ba-lora" or regularizers == type(regularizers)():
        return []
    return [
        f"regularizers are configured and do not act under method {method}; "
        "method ba-lora trains with them"
    ]


def language_model(
    regularizers: RegularizersConfig,
    terms: Terms,
    *,
    steps: int,
    tokens: int,
    hidden_size: int,
    vocabulary: int,
    softcapped: bool,
    head_frozen: bool,
) -> list[str]:
    """List the notices on the regularizers of a language model.

    Args:
      regularizers: the section of the configuration.
      terms: the terms that act.
      steps: updates in the run.
      tokens: the most counted tokens of a micro-batch.
      hidden_size: d, the most singular values of the logits.
      vocabulary: V.
      softcapped: True if the logits have a soft-cap.
      head_frozen: True if the head is neither trained nor adapted.

    Returns:
      The notices; an empty list if every regularizer acts.
    """
    sentences = _never(regularizers, steps)
    for name in _acting(regularizers, steps):
        option = f"regularizers.{name}"
        title = REGULARIZERS[name].title
        function = terms[name].function
        if isinstance(function, NegativeEntropy):
            top_k = function.top_k
            if top_k is not None and top_k >= vocabulary:
                sentences.append(
                    f"{option}.top_k is {top_k} and the vocabulary {vocabulary}: the entropy is "
                    "over all of it, as with null; a smaller top_k restricts it to the likeliest "
                    "tokens"
                )
        if isinstance(function, LeadingShare):
            in_group = tokens // function.groups
            rank = min(in_group, hidden_size)
            sizes = f"{in_group} tokens at most, hidden size {hidden_size}"
            if function.k >= rank and function.norm == "nuclear":
                sentences.append(_constant(option, title, function.k, rank, sizes))
            elif function.k >= rank:
                sentences.append(
                    f"{option}.k is {function.k} and the logits have at most {rank} singular "
                    f"values ({sizes}): none is left beside the leading ones, so the {title} term "
                    f"evens them out and concentrates nothing; a k below {rank} makes it"
                )
        if terms[name].per == "batch" and head_frozen:
            if isinstance(function, LeadingShare) and softcapped:
                sentences.append(
                    f"the logits are soft-capped: the {title} term alone is computed from whole "
                    f"logits and takes their memory; {option}.weight 0 saves it"
                )
            if not isinstance(function, LeadingShare):
                sentences.append(
                    f"the {title} term is per batch: it is computed from whole logits and takes "
                    f"their memory; {option}.weight 0 saves it"
                )
    if not head_frozen:
        sentences.append(
            "the output layer is trained or adapted: the objective cannot stream, and holds whole "
            f"logits of {vocabulary} numbers a token; leave lm_head out of adapter.targets and "
            "adapter.modules_to_save to save them"
        )
    return sentences


def classifier(
    regularizers: RegularizersConfig,
    terms: Terms,
    *,
    steps: int,
    examples: int,
    classes: int,
) -> list[str]:
    """List the notices on the regularizers of a classifier.

    Args:
      regularizers: the section of the configuration.
      terms: the terms that act.
      steps: updates in the run.
      examples: N, the examples of an update.
      classes: D; 1 for scores.

    Returns:
      The notices; an empty list if every regularizer acts.
    """
    sentences = _never(regularizers, steps)
    for name in _acting(regularizers, steps):
        option = f"regularizers.{name}"
        title = REGULARIZERS[name].title
        function = terms[name].function
        if isinstance(function, Divergence) and classes == 1:
            sentences.append(
                "there is one output: its softmax is always 1, "
                f"so the {title} term (form kl) is the constant 0"
            )
        if isinstance(function, Covariance) and min(classes, examples) == 1:
            single = "output" if classes == 1 else "example in a batch"
            sentences.append(
                f"there is one {single}: nothing can vary together, "
                f"so the {title} term is the constant 0"
            )
        if isinstance(function, NuclearShare) and function.k >= min(examples, classes):
            sizes = f"{examples} examples, {classes} outputs"
            rank = min(examples, classes)
            sentences.append(_constant(option, title, function.k, rank, sizes))
    return sentences


def negligible(steps: Sequence[StepRecord]) -> list[str]:
    """List the notices on regularizers that were next to nothing in a whole run.

    Args:
      steps: the records of its updates.

    Returns:
      The notices; an empty list if every regularizer had a part in the loss.
    """
    sentences = []
    for name in steps[-1].terms:
        parts = [
            abs(step.weights[name] * step.terms[name] / step.task)
            for step in steps
            if name in step.terms and step.task
        ]
        if parts and 0 < max(parts) < NEGLIGIBLE:
            title = REGULARIZERS[name].title
            sentences.append(
                f"the {title} term, weighted, was at most about {max(parts):.0e} of the task's "
                f"loss, and hardly acted; a larger regularizers.{name}.weight, or more updates, "
                "let it act"
            )
    return sentences


def _acts(section: TermConfig, steps: int) -> bool:
    """Return True if the weight is above 0 at some step."""
    schedule = section_schedule(section, steps)
    # A rising weight is largest at the last step, a falling one at the first.
    return any(schedule(step) > 0 for step in (0, steps - 1))


def _acting(regularizers: RegularizersConfig, steps: int) -> list[str]:
    """The names of the terms that act at some step."""
    return [name for name, section in regularizers.acting.items() if _acts(section, steps)]


def _never(regularizers: RegularizersConfig, steps: int) -> list[str]:
    """The notices on terms whose weight is 0, or stays 0."""
    sentences = []
    for name, section in regularizers.terms.items():
        option = f"regularizers.{name}"
        absence = REGULARIZERS[name].absence
        if section.weight == 0:
            sentences.append(
                f"{option}.weight is 0: {absence}; a weight above 0 switches the term on"
            )
        elif not _acts(section, steps):
            start = f"{option}.warmup"
            if section.schedule == "two-phase":
                start = f"{option}.delay {section.delay:g}"
            sentences.append(
                f"{option}.weight is {section.weight:g} and stays 0 in all {steps} steps of the "
                f"run ({option}.schedule {section.schedule}): {absence}; more steps, a smaller "
                f"{start}, or schedule constant let it act"
            )
    return sentences


def _constant(option: str, title: str, k: int, rank: int, sizes: str) -> str:
    """The notice on an SVD term that is constant because k is at least the rank of the logits."""
    remedy = f"{option}.weight 0 saves its cost"
    if rank > 1:
        remedy = f"a k below {rank} makes it act"
    return (
        f"{option}.k is {k} and the logits have at most {rank} singular values ({sizes}): "
        f"the {title} term is the constant -1 and does nothing; {remedy}"
    )
