"""What is trained: the pre-trained model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    """The pre-trained model."""

    source: str
    """A Hugging Face folder (config.json + safetensors) or a hub id."""
    task: Literal["causal-lm"] = "causal-lm"
    """What the model is trained for: next-token prediction."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """How the frozen weights are stored."""
    tokenizer: str | None = None
    """Where the tokenizer is, if not with the model."""
    revision: str | None = None
    """The hub's branch, tag or commit."""
    from_scratch: bool = False
    """Start from fresh random weights instead of the folder's; for method full."""
