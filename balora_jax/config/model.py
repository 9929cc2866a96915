"""What is trained: the pre-trained model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    """The pre-trained model."""

    source: str
    """A Hugging Face folder (config.json + safetensors) or a hub id."""
    task: Literal["causal-lm", "seq2seq-lm", "sequence-classification"] = "causal-lm"
    """What the model is trained for: next-token prediction; or a class (or a score) for a text or a pair of texts,
    written out by an encoder-decoder (seq2seq-lm, as T5 has it) or told by a new head (sequence-classification)."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """How the frozen weights are stored."""
    tokenizer: str | None = None
    """Where the tokenizer is, if not with the model."""
    revision: str | None = None
    """The hub's branch, tag or commit."""
    from_scratch: bool = False
    """Start from fresh random weights instead of the folder's; for method full."""
    replace_head: bool = False
    """Classification: drop the checkpoint's head where it has another number of labels, and start a fresh one."""
