"""A tiny random T5, and a tokenizer of words and of the characters of scores."""

import pathlib

import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

WORDS = [
    "<pad>", "</s>", "<unk>", *"abcdefgh", "text", "other", ":", "few", "many", "sst2", "sentence",
    "negative", "positive", "mnli", "hypothesis", "premise", ".", "-", *"0123456789",
]  # fmt: skip
CONFIG = T5Config(
    vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
    decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, dropout_rate=0.0,
    relative_attention_num_buckets=8, feed_forward_proj="gated-gelu",
)  # fmt: skip


def make_tokenizer(**special: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer of `WORDS`; `special` replaces special tokens."""
    tokenizer = Tokenizer(
        tokenizer_models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    parts = [
        pre_tokenizers.Whitespace(),
        pre_tokenizers.Split(".", "isolated"),
        pre_tokenizers.Digits(True),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"} | special
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], **named
    )


def save_t5(folder: pathlib.Path, **changed) -> pathlib.Path:
    """Save a random T5 with its tokenizer; `changed` replaces fields of `CONFIG`."""
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**{**CONFIG.to_dict(), **changed}))
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "shared" not in name:
            # Larger than initial weights, so that outputs differ between texts.
            weight.data *= 2
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
