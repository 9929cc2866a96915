"""The pre-trained model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    """The pre-trained model."""

    source: str
    """Hugging Face folder (config.json and safetensors files) or hub id."""
    task: Literal["causal-lm", "seq2seq-lm", "sequence-classification"] = "causal-lm"
    """causal-lm: next-token prediction. seq2seq-lm: an encoder-decoder such as T5 that writes a
    text's class or score as text. sequence-classification: a head that predicts the class or score
    of a text or a pair of texts."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Storage dtype of the frozen weights."""
    attention: Literal["auto", "plain", "chunked", "cudnn", "splash"] = "auto"
    """How attention is computed; results differ by rounding. plain: all scores at once. chunked:
    block by block, in memory that is linear in the length. cudnn: by the kernels of NVIDIA GPUs,
    in bfloat16. splash: by the kernel for TPUs. auto: plain below 512 tokens, and from there on by
    what the device has and the model allows."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer; null for the model's own."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    from_scratch: bool = False
    """Start from random weights instead of the checkpoint's; for method full."""
    replace_head: bool = False
    """Classification: replace a checkpoint's head that has another number of labels with a new
    one."""

    @property
    def tokenizer_source(self) -> str:
        """The folder or hub id that the tokenizer is loaded from."""
        return self.tokenizer or self.source
