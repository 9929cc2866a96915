"""Sentences on regularizers that cannot act as configured: which, why, and what to do."""

from balora_jax.config import RegularizersConfig, TermConfig
from balora_jax.objective.schedules import weight_schedule

NOT_THERE = {
    "consistency": "no teacher runs, and nothing keeps the model near the pre-trained one",
    "diversity": "nothing keeps the outputs spread out",
    "svd": "nothing concentrates the logits on their leading directions",
}


def unused(method: str, terms: RegularizersConfig) -> list[str]:
    """What is said of regularizers that are configured under a method that has none.

    Args:
      method: ba-lora, pissa, lora or full.
      terms: as configured.

    Returns:
      Sentences, none where all is well.
    """
    if method == "ba-lora" or terms == RegularizersConfig():
        return []
    return [
        f"regularizers are configured and do not act under method {method}; method ba-lora trains with them"
    ]


def language_model(
    terms: RegularizersConfig,
    *,
    steps: int,
    tokens: int,
    hidden_size: int,
    vocabulary: int,
    softcapped: bool,
    head_frozen: bool,
) -> list[str]:
    """What is said of a language model's regularizers.

    Args:
      terms: those in force.
      steps: updates in the run.
      tokens: the most a micro-batch (or one of `svd.groups` of it) can count.
      hidden_size: d; logits have no more singular values than that.
      vocabulary: V.
      softcapped: whether the logits are bent by a soft-cap.
      head_frozen: whether the output layer is neither trained nor adapted.

    Returns:
      Sentences, none where all is well.
    """
    said, top_k = _never(terms, steps), terms.diversity.top_k
    if _acts(terms.diversity, steps) and top_k is not None and top_k >= vocabulary:
        said.append(
            f"regularizers.diversity.top_k is {top_k} and the vocabulary {vocabulary}: the entropy is over all of it, "
            "as with null; a smaller top_k looks at the likeliest tokens alone"
        )
    if _acts(terms.svd, steps):
        said += _nothing_trails(
            terms, min(tokens, hidden_size), f"{tokens} tokens at most, hidden size {hidden_size}"
        )
        if softcapped and head_frozen:
            said.append(
                "the logits are soft-capped: the SVD term alone is computed from whole logits and takes their memory; "
                "regularizers.svd.weight 0 saves it"
            )
    if not head_frozen:
        said.append(
            "the output layer is adapted: the objective cannot stream, and holds whole logits of "
            f"{vocabulary} numbers a token; leave lm_head out of adapter.targets to save them"
        )
    return said


def classifier(terms: RegularizersConfig, *, steps: int, examples: int, classes: int) -> list[str]:
    """What is said of a classifier's regularizers.

    Args:
      terms: those in force.
      steps: updates in the run.
      examples: N, in the batch that the terms see.
      classes: D, 1 for scores.

    Returns:
      Sentences, none where all is well.
    """
    said = _never(terms, steps)
    if classes == 1 and _acts(terms.consistency, steps) and terms.consistency.form == "kl":
        said.append(
            "there is one output: its softmax is always 1, so the consistency term (form kl) is the constant 0"
        )
    if min(classes, examples) == 1 and _acts(terms.diversity, steps):
        one = "output" if classes == 1 else "example in a batch"
        said.append(
            f"there is one {one}: nothing can vary together, so the diversity term is the constant 0"
        )
    if _acts(terms.svd, steps) and terms.svd.k >= min(examples, classes):
        said.append(
            _constant(terms, min(examples, classes), f"{examples} examples, {classes} outputs")
        )
    return said


def _acts(term: TermConfig, steps: int) -> bool:
    """Whether the weight is ever above 0; what rises is highest in the last step, what falls in the first."""
    return any(weight_schedule(term, steps)(step) > 0 for step in (0, steps - 1))


def _never(terms: RegularizersConfig, steps: int) -> list[str]:
    said = []
    for name, term in vars(terms).items():
        option = f"regularizers.{name}"
        if term.weight == 0:
            said.append(
                f"{option}.weight is 0: {NOT_THERE[name]}; a weight above 0 switches the term on"
            )
        elif not _acts(term, steps):
            begin = (
                f"{option}.delay {term.delay:g}"
                if term.schedule == "two-phase"
                else f"{option}.warmup"
            )
            said.append(
                f"{option}.weight is {term.weight:g} and stays 0 in all {steps} steps of the run ({option}.schedule "
                f"{term.schedule}): {NOT_THERE[name]}; more steps, a smaller {begin}, or schedule constant let it act"
            )
    return said


def _nothing_trails(terms: RegularizersConfig, rank: int, sizes: str) -> list[str]:
    if terms.svd.k < rank:
        return []
    if terms.svd.norm == "nuclear":
        return [_constant(terms, rank, sizes)]
    return [
        f"regularizers.svd.k is {terms.svd.k} and the logits have at most {rank} singular values ({sizes}): none is "
        "left beside the leading ones, so the SVD term evens them out and concentrates nothing; "
        f"a k below {rank} makes it"
    ]


def _constant(terms: RegularizersConfig, rank: int, sizes: str) -> str:
    remedy = (
        f"a k below {rank} makes it act" if rank > 1 else "regularizers.svd.weight 0 saves its cost"
    )
    return (
        f"regularizers.svd.k is {terms.svd.k} and the logits have at most {rank} singular values ({sizes}): "
        f"the SVD term is the constant -1 and does nothing; {remedy}"
    )
