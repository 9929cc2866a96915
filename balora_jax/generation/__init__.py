"""Text from a model: prompts to tokens, new tokens in a batch or a stream, and tokens to text."""

from balora_jax.generation.engine import Generated, answer, generate, stream
from balora_jax.generation.prompts import bucket_length, pad_prompts
from balora_jax.generation.text import continuation, stream_text

__all__ = [
    "Generated",
    "answer",
    "bucket_length",
    "continuation",
    "generate",
    "pad_prompts",
    "stream",
    "stream_text",
]
