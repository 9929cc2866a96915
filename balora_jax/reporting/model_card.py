"""The model card (README.md) of an adapter: its origin, its settings, and the code to load it."""

import pathlib
from dataclasses import dataclass, field

from balora_jax import data
from balora_jax.config import RunConfig
from balora_jax.reporting.console import weights_in_words
from balora_jax.training.records import HeldOutRecord
from balora_jax.training.summary import Summary

# The model card in the adapter's folder.
CARD_FILE = "README.md"
AUTO_CLASSES = {
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "sequence-classification": "AutoModelForSequenceClassification",
}
# Written where a part of the change was exported.
PART = "of the change is kept"
CARD = """---
{base}library_name: peft
tags: [lora, ba-lora, balora-jax]
---

# {method} adapter for {source}

A plain LoRA of rank {peft_rank}{twice} on the untouched base model, trained with
[BA-LoRA](https://arxiv.org/abs/2408.04556) for JAX (balora-jax).

```python
from peft import PeftModel
from transformers import {auto_class}

base = {auto_class}.from_pretrained("{source}"{options})
model = PeftModel.from_pretrained(base, "this folder")
```

| | |
|---|---|
| method | {method} |
| adapter | rank {rank}, initialized by {init}, {form} form |
| regularizers | {regularizers} |
| data | {data} |
{format}
| updates | {steps} of {batch_size} examples, at most {max_length} tokens each{scale} |
| learning rate | {learning_rate}, {schedule} |
| held-out loss | {before} before, {after} after |
{metrics}"""


@dataclass(frozen=True)
class CardResults:
    """The results of the exported weights.

    Attributes:
      steps: updates that they are from.
      loss_before: the held-out loss before the first update; None if not measured.
      loss_after: that of the weights; None if not measured.
      metrics: their metrics by name.
      scale: the part of the learned change that they have.
      error: the share of the change (Frobenius norm) that a smaller rank has left out.
    """

    steps: int
    loss_before: float | None
    loss_after: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    scale: float = 1.0
    error: float = 0.0

    @classmethod
    def of_summary(cls, summary: Summary) -> "CardResults":
        """The results at the end of a run."""
        metrics = summary.metrics | summary.metrics_ood
        return cls(summary.step_kept, summary.eval_loss_first, summary.eval_loss_last, metrics)

    @classmethod
    def of_evaluations(
        cls,
        step: int,
        before: HeldOutRecord | None,
        after: HeldOutRecord | None,
        scale: float = 1.0,
        error: float = 0.0,
    ) -> "CardResults":
        """The results at a step, from the evaluations before the first update and at that step."""
        return cls(
            step,
            before.loss if before else None,
            after.loss if after else None,
            after.metrics if after else {},
            scale,
            error,
        )


def model_card(
    config: RunConfig,
    results: CardResults,
    rank: int,
    peft_rank: int,
    labels: int | None = None,
    pad_token_id: int | None = None,
) -> str:
    """Write the text of the card.

    Args:
      config: the configuration of the run.
      results: of the exported weights.
      rank: the trained rank; that of the adapter in adapter.init may be another than adapter.rank.
      peft_rank: the rank of the exported adapter.
      labels: the number of labels of a classifier; None for a language model.
      pad_token_id: the token that padded the batches, if the base model's configuration has none;
        None otherwise.

    Returns:
      Markdown.
    """
    options = {"dtype": f'"{config.model.dtype}"'}
    options |= {"num_labels": labels, "pad_token_id": pad_token_id}
    arguments = [f", {name}={value}" for name, value in options.items() if value is not None]
    source = config.model.source
    # The hub refuses a card that names a folder of this machine as its base.
    is_local = pathlib.Path(source).expanduser().is_dir()
    return CARD.format(
        base="" if is_local else f"base_model: {source}\n",
        source=source,
        auto_class=AUTO_CLASSES[config.model.task],
        options="".join(arguments),
        method=config.method,
        peft_rank=peft_rank,
        twice=", twice the trained rank (A B - A0 B0)," if peft_rank == 2 * rank else "",
        rank=rank,
        init=config.adapter_init,
        form=config.adapter.form,
        regularizers=weights_in_words(config),
        data=" ".join(filter(None, (config.data.task, ", ".join(config.data.source_names)))),
        format=_format(config, labels),
        steps=results.steps,
        scale=_parts(results),
        batch_size=config.training.batch_size,
        max_length=config.data.max_length,
        learning_rate=_learning_rate(config),
        schedule=config.optimizer.schedule,
        before=_loss(results.loss_before),
        after=_loss(results.loss_after),
        metrics="".join(f"| {name} | {value:.4f} |\n" for name, value in results.metrics.items()),
    )


def read_card(path: pathlib.Path, step: int) -> str | None:
    """Read a card, if it is of the whole change at an update.

    Args:
      path: the file.
      step: the update.

    Returns:
      The card; None where there is none, or another one.
    """
    if not path.is_file():
        return None
    try:
        card = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        # Somebody else's file.
        return None
    return card if _is_of_step(card, step) else None


def _is_of_step(card: str, step: int) -> bool:
    line = next((line for line in card.splitlines() if line.startswith("| updates |")), "")
    return line.startswith(f"| updates | {step} of ") and PART not in line


def _parts(results: CardResults) -> str:
    """Say what was left out of the learned change, in the line on its updates."""
    parts = "" if results.scale == 1 else f"; {results.scale:g} {PART}"
    if results.error:
        parts += f"; {1 - results.error:.2%} {PART} by its smaller rank"
    return parts


def _learning_rate(config: RunConfig) -> str:
    ratio = config.optimizer.loraplus_lr_ratio
    lora_plus = "" if ratio == 1 else f" (B's {ratio:g} times that)"
    name = "" if config.optimizer.name == "adamw" else f", {config.optimizer.name}"
    decay = config.optimizer.ema_decay
    average = "" if decay is None else f"; weights averaged, decay {decay:g}"
    own = "".join(f", {key} {rate:g}" for key, rate in config.optimizer.learning_rates.items())
    return f"{config.optimizer.learning_rate}{lora_plus}{own}{name}{average}"


def _loss(loss: float | None) -> str:
    return "not measured" if loss is None else f"{loss:.4f}"


def _format(config: RunConfig, labels: int | None) -> str:
    """The row of the table on the input format or the labels."""
    if labels is not None:
        return f"| labels | {labels}; the head was trained whole |"
    if config.model.task == "seq2seq-lm":
        task = data.text_task(config.data)
        question = data.question(task, ["..."] * len(task.fields))
        return f"| input | `{question}`, answered with the label as text |"
    template = config.data.template.replace("\n", "\\n")
    return f"| prompt template | {template} |"
