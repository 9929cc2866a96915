"""A word-level tokenizer for the tiny model; unknown words become bytes."""

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
    """Split a text into words, numbers and marks; a space belongs to the word after it.

        pieces("Ada has 2.")  ->  ["▁Ada", "▁has", "▁2", "."]

    Args:
      text: any text.
    """
    return re.findall(PIECE, "▁" + text.replace(" ", "▁"))


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer with a token for each word, number and mark of the texts.

    Args:
      texts: the texts whose words are tokens, the most frequent first. Other words become bytes.

    Returns:
      The tokenizer, which adds BOS.
    """
    counts = Counter(piece for text in texts for piece in pieces(text))
    by_frequency = sorted(counts, key=lambda piece: (-counts[piece], piece))
    words = [piece for piece in by_frequency if piece != "▁"]
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    tokens = [*SPECIAL, *byte_tokens, "▁", *words]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    # No merges: pieces are whole words already, and unknown words fall back to bytes.
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
    """Write a tokenizer with a class name that both transformers 4 and 5 can load.

    Args:
      tokenizer: from `make_tokenizer`.
      folder: the folder to write to.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.pop("backend", None)
    path.write_text(json.dumps(config, indent=2) + "\n")
