"""The table of tasks, by model.task."""

from balora_jax.runs.causal_lm import CausalLM
from balora_jax.runs.classification import Classification
from balora_jax.runs.seq2seq_lm import Seq2SeqLM

# (config, tokenizer) -> a `runs.task.Task`.
TASKS = {
    "causal-lm": CausalLM,
    "seq2seq-lm": Seq2SeqLM,
    "sequence-classification": Classification,
}
