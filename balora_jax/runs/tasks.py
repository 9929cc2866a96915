"""What a task makes of a run: the examples it reads, the update, and the measures that are taken."""

from balora_jax.runs.causal_lm import CausalLM
from balora_jax.runs.classification import Classification
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.evaluation.tiny_world.evaluator import make_probe
from balora_jax.runs.seq2seq_lm import TextToText

# model.task -> what tells the run of it; all have the same methods.
TASKS = {"causal-lm": CausalLM, "seq2seq-lm": TextToText, "sequence-classification": Classification}

__all__ = ["TASKS", "CausalLM", "Classification", "CompiledStep", "TextToText", "make_probe"]
