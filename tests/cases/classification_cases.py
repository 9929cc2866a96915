"""Tiny random classifiers of several types, a tokenizer of words, and a task to learn."""

import json
import pathlib

import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
)

WORDS = ["[PAD]", "[CLS]", "[SEP]", *"abcdefgh"]
SIZES = dict(
    vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, max_position_embeddings=64, pad_token_id=0, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)  # fmt: skip
DECODER = dict(
    vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
    bos_token_id=1, eos_token_id=2,
)  # fmt: skip
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES, type_vocab_size=1),
    "deberta-v2": DebertaV2Config(
        **SIZES, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm",
        share_att_key=True, pos_att_type="p2c|c2p", position_biased_input=False, type_vocab_size=0,
    ),
    "gpt2": GPT2Config(
        vocab_size=len(WORDS), n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    "llama": LlamaConfig(**DECODER),
    "t5": T5Config(
        vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        decoder_start_token_id=0, eos_token_id=2, dropout_rate=0.0,
        relative_attention_num_buckets=8, feed_forward_proj="gated-gelu",
    ),
}  # fmt: skip
# The targets of each type: kernels of attention.
TARGETS = {
    "bert": "[query, value]",
    "roberta": "[query, key]",
    "deberta-v2": "[query_proj, value_proj]",
    "gpt2": "[c_attn]",
    "llama": "[q_proj, v_proj]",
    "t5": "[q, v]",
}


def save_tokenizer(folder: pathlib.Path, **special: str) -> None:
    """Save a tokenizer of `WORDS`; `special` names further special tokens."""
    tokenizer = Tokenizer(
        tokenizer_models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[PAD]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", model_input_names=names, **special
    )
    fast.save_pretrained(folder)


def save_model(
    kind: str, folder: pathlib.Path, *, with_head: bool = False, causal: bool = False, **changed
) -> None:
    """Save a random model, without its head unless `with_head`, and the tokenizer."""
    torch.manual_seed(0)
    config = type(CONFIGS[kind])(**{**CONFIGS[kind].to_dict(), **changed})
    auto_class = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    model = auto_class.from_config(config)
    for name, weight in model.named_parameters():
        # Larger than initial weights, so that outputs differ between texts.
        if weight.ndim == 2 and "embed" not in name and "wte" not in name and "shared" not in name:
            weight.data *= 5 if kind != "t5" else 1
    saved = model if with_head or causal else getattr(model, model.base_model_prefix)
    saved.save_pretrained(folder)
    save_tokenizer(folder, **({"eos_token": "[SEP]"} if causal else {}))


def write_rows(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
    """Write one JSON object a line, and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def letter_rows(number: int, seed: int, classes: int = 2, longest: int = 12) -> list[dict]:
    """Draw texts of letters.

    Most letters are of the class's part of the alphabet. The score is the number of `a`, at most 5.
    """
    random = np.random.default_rng(seed)
    groups = np.array_split(list("abcdefgh"), classes)
    rows = []
    for _ in range(number):
        label = int(random.integers(classes))
        length = random.integers(3, longest)
        typical = random.random(length) < 0.8
        letters_of_class = random.choice(groups[label], length)
        any_letters = random.choice(list("abcdefgh"), length)
        letters = np.where(typical, letters_of_class, any_letters)
        score = float(min((letters == "a").sum(), 5))
        rows.append({"text": " ".join(letters), "other": "a b", "label": label, "score": score})
    return rows


def letter_arguments(
    files: pathlib.Path, output: pathlib.Path, *more: str, kind: str = "bert", **settings: object
) -> list[str]:
    """The command-line arguments of a short run on the letters in a folder.

    Args:
      files: a folder with train.jsonl and a model of that kind.
      output: the run's folder.
      *more: arguments that take the place of these, or are added.
      kind: of the model.
      **settings: options with __ for the dot, which take the place of these; None for none.
    """
    options = {
        "model.source": files / kind,
        "model.task": "sequence-classification",
        "model.dtype": "float32",
        "adapter.rank": 4,
        "adapter.targets": TARGETS[kind],
        "data.train": files / "train.jsonl",
        "data.eval": files / "eval.jsonl",
        "data.labels": 2,
        "data.max_length": 32,
        "optimizer.learning_rate": 1e-2,
        "training.steps": 20,
        "training.batch_size": 16,
        "training.precision": "float32",
        "mesh.data": 1,
        "output.dir": output,
    }
    options |= {name.replace("__", "."): value for name, value in settings.items()}
    kept = {
        f"--{name}": str(value)
        for name, value in options.items()
        if value is not None and f"--{name}" not in more
    }
    return [text for pair in kept.items() for text in pair] + [*more]
