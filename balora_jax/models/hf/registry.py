"""The table of model types: configuration, tensor names, and the module of each task."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from balora_jax.models.base import Model
from balora_jax.models.bert.config import encoder_config
from balora_jax.models.bert.model import BertClassifier, RobertaClassifier
from balora_jax.models.deberta.config import deberta_config
from balora_jax.models.deberta.model import DebertaClassifier
from balora_jax.models.decoder.config import decoder_config, text_part_config
from balora_jax.models.decoder.model import Decoder, DecoderClassifier, TextPartDecoder
from balora_jax.models.gpt2.config import gpt2_config
from balora_jax.models.gpt2.model import Gpt2, Gpt2Classifier
from balora_jax.models.hf.names import Naming
from balora_jax.models.t5.config import t5_config
from balora_jax.models.t5.model import T5, T5Classifier

CAUSAL_LM = "causal-lm"
SEQ2SEQ_LM = "seq2seq-lm"
CLASSIFICATION = "sequence-classification"

# Tensors that are ignored, as an alternative of a regular expression: copies of a tied head.
OR_LM_HEAD = r"|lm_head\..*"
DECODER_BUFFERS = r".*\.rotary_emb\.inv_freq" + OR_LM_HEAD


@dataclass(frozen=True)
class Task:
    """One task of a model type.

    Attributes:
      module: the Linen module class.
      architecture: Hugging Face's class, for config.json's architectures.
      head: modules, joined by dots, that a checkpoint of the bare model lacks and that start fresh.
    """

    module: type[Model]
    architecture: str
    head: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelType:
    """A model type.

    Attributes:
      parse: translates Hugging Face's configuration.
      naming: the differences between Hugging Face's tensor names and our paths.
      tasks: {task's name: Task}.
      tied_by_weights: True if the weights, not the configuration, tell whether the head is tied.
    """

    parse: Callable[[PretrainedConfig], Any]
    naming: Naming
    tasks: dict[str, Task]
    tied_by_weights: bool = False


def _decoder(name: str, classifier: str | None = "ForSequenceClassification") -> ModelType:
    """A decoder of Llama's names, by the beginning of Hugging Face's classes.

    Args:
      name: that beginning.
      classifier: the end of the name of its classifier; None if Hugging Face has none.
    """
    naming = Naming(prefix="model", stack="layers", ignored=DECODER_BUFFERS, experts="experts")
    tasks = {CAUSAL_LM: Task(Decoder, f"{name}ForCausalLM")}
    if classifier is not None:
        tasks[CLASSIFICATION] = Task(DecoderClassifier, name + classifier, ("score",))
    return ModelType(decoder_config, naming, tasks)


def _text_part(name: str) -> ModelType:
    """The decoder of a model of texts and images, whose other tensors are kept as they are."""
    naming = Naming(
        prefix="model",
        stack="layers",
        ignored=DECODER_BUFFERS,
        older=(
            (r"^language_model\.lm_head\.", "lm_head."),
            (r"^language_model\.model\.", "model.language_model."),
            (r"^(vision_tower|multi_modal_projector)\.", r"model.\1."),
        ),
        kept=r"model\.(vision_tower|multi_modal_projector)\..*",
    )
    task = Task(TextPartDecoder, f"{name}ForConditionalGeneration")
    return ModelType(text_part_config, naming, {CAUSAL_LM: task})


def _gpt2() -> ModelType:
    buffers = r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias"
    naming = Naming(
        prefix="transformer",
        stack="h",
        ignored=buffers + OR_LM_HEAD,
        untransposed=("c_attn", "c_proj", "c_fc"),
    )
    tasks = {
        CAUSAL_LM: Task(Gpt2, "GPT2LMHeadModel"),
        CLASSIFICATION: Task(Gpt2Classifier, "GPT2ForSequenceClassification", ("score",)),
    }
    return ModelType(gpt2_config, naming, tasks)


def _t5() -> ModelType:
    embeddings = r"(en|de)coder\.embed_tokens\.weight"
    unused_bias = r"decoder.*EncDecAttention\.relative_attention_bias.*"
    our_bias = "relative_attention_bias"
    their_bias = "block.0.layer.0.SelfAttention.relative_attention_bias"
    naming = Naming(
        prefix="transformer",
        stack="block",
        ignored=rf"(transformer\.)?({embeddings}|{unused_bias})" + OR_LM_HEAD,
        renamed=((our_bias, their_bias),),
    )
    tasks = {
        SEQ2SEQ_LM: Task(T5, "T5ForConditionalGeneration"),
        CLASSIFICATION: Task(T5Classifier, "T5ForSequenceClassification", ("classification_head",)),
    }
    return ModelType(t5_config, naming, tasks, tied_by_weights=True)


def _encoder(
    parse: Callable[[PretrainedConfig], Any],
    name: str,
    module: type[Model],
    head: tuple[str, ...],
    or_ignored: str = "",
) -> ModelType:
    prefix = name.lower().removesuffix("v2")
    ignored = rf"({prefix}\.)?embeddings\.position_ids|cls\..*" + or_ignored
    naming = Naming(prefix=prefix, stack="layer", ignored=ignored)
    task = Task(module, f"{name}ForSequenceClassification", head)
    return ModelType(parse, naming, {CLASSIFICATION: task})


MODEL_TYPES = {
    "llama": _decoder("Llama"),
    "mistral": _decoder("Mistral"),
    "gemma": _decoder("Gemma"),
    "gemma2": _decoder("Gemma2"),
    "gemma3_text": _decoder("Gemma3", "TextForSequenceClassification"),
    "gemma3": _text_part("Gemma3"),
    "qwen2": _decoder("Qwen2"),
    "qwen3": _decoder("Qwen3"),
    "phi3": _decoder("Phi3"),
    "mixtral": _decoder("Mixtral"),
    "olmo2": _decoder("Olmo2"),
    "smollm3": _decoder("SmolLM3"),
    "granite": _decoder("Granite", classifier=None),
    "gpt2": _gpt2(),
    "t5": _t5(),
    "bert": _encoder(encoder_config, "Bert", BertClassifier, ("bert.pooler", "classifier")),
    "roberta": _encoder(
        encoder_config,
        "Roberta",
        RobertaClassifier,
        ("classifier",),
        OR_LM_HEAD + r"|(roberta\.)?pooler\..*",
    ),
    "deberta-v2": _encoder(
        deberta_config,
        "DebertaV2",
        DebertaClassifier,
        ("pooler", "classifier"),
        r"|(lm|mask)_predictions\..*",
    ),
}
