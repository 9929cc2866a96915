"""A tiny random Llama, small sums to train it on, and the arguments of a short run."""

import json
import pathlib

import jax
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models

from balora_jax import models


def save_llama(folder: pathlib.Path, positions: int = 128) -> pathlib.Path:
    """Save a random two-layer Llama with a byte-level tokenizer in a new folder."""
    described = folder / "described"
    described.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    tokenizer.save(str(described / "tokenizer.json"))
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    (described / "tokenizer_config.json").write_text(json.dumps(names))
    sizes = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": len(vocabulary),
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": positions,
        "rms_norm_eps": 1e-6, "rope_theta": 1e4, "hidden_act": "silu", "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    (described / "config.json").write_text(json.dumps(sizes))
    params = models.init_params(models.load_model(described), jax.random.key(0))
    # Larger than initial weights, so that the principal directions matter.
    params = jax.tree.map(lambda leaf: leaf * 3 if leaf.ndim > 2 else leaf, params)
    return models.save_pretrained(folder / "llama", params, source=described)


def write_sums(folder: pathlib.Path) -> pathlib.Path:
    """Write train.jsonl and eval.jsonl of small sums, and return their folder."""
    rows = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(12) for b in range(8)]
    for name, part in {"train": rows[::2] + rows[1::4], "eval": rows[3::4]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


def sum_arguments(
    llama: pathlib.Path, sums: pathlib.Path, output: pathlib.Path, *more: str
) -> list[str]:
    """The command-line arguments of a short run on the sums; `more` are appended."""
    settings = {
        "model.source": llama,
        "model.dtype": "float32",
        "adapter.rank": 4,
        "adapter.init": "pissa",
        "data.train": sums / "train.jsonl",
        "data.eval": sums / "eval.jsonl",
        "data.fields": '{"instruction": "question", "response": "answer"}',
        "data.template": "{instruction}",
        "data.max_length": 32,
        "optimizer.learning_rate": 1e-2,
        "training.steps": 6,
        "training.batch_size": 8,
        "training.accumulation": 2,
        "training.precision": "float32",
        "mesh.data": 1,
        "output.dir": output,
        "output.save_every": 2,
    }
    pairs = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    return [*pairs, *more]
