"""A word-level tokenizer with bytes to fall back on, so that any text can be given to the tiny model."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<unk>", "<s>", "</s>")
# A word or a number with the space before it, or one other character.
PIECE = r"▁?[A-Za-z]+|▁?\d+|▁?[^▁A-Za-z\d]|▁"


def pieces(text: str) -> list[str]:
    """The words, numbers and marks of a text; a space is part of the word after it."""
    return re.findall(PIECE, "▁" + text.replace(" ", "▁"))


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token for each word, number and mark of the texts, the most frequent first; other words become bytes."""
    counts = Counter(piece for text in texts for piece in pieces(text))
    words = sorted(counts, key=lambda piece: (-counts[piece], piece))
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    vocabulary = {
        piece: index
        for index, piece in enumerate(
            [*SPECIAL, *bytes_, "▁", *(word for word in words if word != "▁")]
        )
    }
    # No merges: pieces are whole words already, and what is no word falls apart into bytes.
    model = models.BPE(
        vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True, ignore_merges=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), "isolated")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace("▁", " "),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=256,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a tokenizer, under the class name that transformers 4 and 5 both know."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.pop("backend", None)
    path.write_text(json.dumps(config, indent=2) + "\n")
