"""Every model type: how its configuration is read, which module does which task, and its names at Hugging Face."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from balora_jax.models.base import Model
from balora_jax.models.bert.model import BertClassifier, RobertaClassifier, encoder_config
from balora_jax.models.deberta.config import deberta_config
from balora_jax.models.deberta.model import DebertaClassifier
from balora_jax.models.decoder.config import decoder_config
from balora_jax.models.decoder.model import Decoder, DecoderClassifier
from balora_jax.models.gpt2.model import Gpt2, Gpt2Classifier, gpt2_config
from balora_jax.models.hf.names import Names
from balora_jax.models.t5.layers import t5_config
from balora_jax.models.t5.model import T5, T5Classifier


@dataclass(frozen=True)
class Task:
    """One thing a model type can do."""

    module: type[Model]
    # Hugging Face's class, for config.json's architectures.
    architecture: str
    # Our modules that a checkpoint of the bare model lacks, which then start fresh.
    head: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelType:
    """All there is to know of a model type."""

    parse: Callable[[PretrainedConfig], Any]
    names: Names
    tasks: dict[str, Task]
    # Whether the head is tied is seen in the weights, not in the configuration.
    tied_by_weights: bool = False


CAUSAL_LM, SEQ2SEQ_LM, CLASSIFICATION = "causal-lm", "seq2seq-lm", "sequence-classification"
LM_HEAD = r"|lm_head\..*"


def _decoder(name: str) -> ModelType:
    names = Names(prefix="model", stack="layers", ignored=r".*\.rotary_emb\.inv_freq" + LM_HEAD)
    tasks = {
        CAUSAL_LM: Task(Decoder, f"{name}ForCausalLM"),
        CLASSIFICATION: Task(DecoderClassifier, f"{name}ForSequenceClassification", ("score",)),
    }
    return ModelType(decoder_config, names, tasks)


def _gpt2() -> ModelType:
    buffers = r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias"
    names = Names("transformer", "h", buffers + LM_HEAD, untransposed=("c_attn", "c_proj", "c_fc"))
    tasks = {
        CAUSAL_LM: Task(Gpt2, "GPT2LMHeadModel"),
        CLASSIFICATION: Task(Gpt2Classifier, "GPT2ForSequenceClassification", ("score",)),
    }
    return ModelType(gpt2_config, names, tasks)


def _t5() -> ModelType:
    copies = r"(transformer\.)?((en|de)coder\.embed_tokens\.weight|decoder.*EncDecAttention\.relative_attention_bias.*)"
    bias = ("relative_attention_bias", "block.0.layer.0.SelfAttention.relative_attention_bias")
    names = Names("transformer", "block", copies + LM_HEAD, renamed=(bias,))
    tasks = {
        SEQ2SEQ_LM: Task(T5, "T5ForConditionalGeneration"),
        CLASSIFICATION: Task(T5Classifier, "T5ForSequenceClassification", ("classification_head",)),
    }
    return ModelType(t5_config, names, tasks, tied_by_weights=True)


def _encoder(
    parse: Callable, name: str, module: type[Model], head: tuple[str, ...], ignored: str
) -> ModelType:
    prefix = name.lower().removesuffix("v2")
    ignored = rf"({prefix}\.)?embeddings\.position_ids|cls\..*{ignored}"
    task = Task(module, f"{name}ForSequenceClassification", head)
    return ModelType(parse, Names(prefix, "layer", ignored), {CLASSIFICATION: task})


MODEL_TYPES = {
    "llama": _decoder("Llama"),
    "mistral": _decoder("Mistral"),
    "gemma": _decoder("Gemma"),
    "gemma2": _decoder("Gemma2"),
    "qwen2": _decoder("Qwen2"),
    "qwen3": _decoder("Qwen3"),
    "gpt2": _gpt2(),
    "t5": _t5(),
    "bert": _encoder(encoder_config, "Bert", BertClassifier, ("bert.pooler", "classifier"), ""),
    "roberta": _encoder(
        encoder_config,
        "Roberta",
        RobertaClassifier,
        ("classifier",),
        LM_HEAD + r"|(roberta\.)?pooler\..*",
    ),
    "deberta-v2": _encoder(
        deberta_config,
        "DebertaV2",
        DebertaClassifier,
        ("pooler", "classifier"),
        r"|(lm|mask)_predictions\..*",
    ),
}
