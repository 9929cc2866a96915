"""The kinds of run by model.task: a table."""

from balora_jax.runs.causal_lm import CausalLM
from balora_jax.runs.classification import Classification
from balora_jax.runs.seq2seq_lm import Seq2SeqLM

# Each makes a `runs.task.Task` of (config, tokenizer).
TASKS = {
    "causal-lm": CausalLM,
    "seq2seq-lm": Seq2SeqLM,
    "sequence-classification": Classification,
}
