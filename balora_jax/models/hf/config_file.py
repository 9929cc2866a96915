"""A folder's config.json: its values checked one by one, then parsed by transformers.

The checks come first, because transformers makes lists as long as the number of layers or labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from balora_jax.errors import BadInput, reason_of, shown
from balora_jax.models.hf.files import read_json
from balora_jax.models.hf.registry import MODEL_TYPES

CONFIG_FILE = "config.json"
MOST_LAYERS = 10_000
MOST_EXPERTS = 10_000
MOST_LABELS = 100_000
LARGEST_SIZE = 2**31 - 1


@dataclass(frozen=True)
class Rule:
    """The values that an entry of config.json may have.

    Attributes:
      fits: returns True if a value, not null, is accepted.
      accepted: the accepted values, for messages.
      null: True if null is accepted, too.
    """

    fits: Callable[[Any], bool]
    accepted: str
    null: bool = False


def _whole(low: int, high: int = LARGEST_SIZE, *, null: bool = False) -> Rule:
    def fits(value: Any) -> bool:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and low <= value <= high

    return Rule(fits, f"a whole number from {low} to {high}", null)


def _number(low: float, high: float, *, null: bool = False) -> Rule:
    def fits(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and low <= value <= high

    return Rule(fits, f"a number from {low:g} to {high:g}", null)


def _rate() -> Rule:
    def fits(value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and 0 <= value < 1

    return Rule(fits, "a number from 0 to below 1", null=True)


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _are_score_kinds(value: Any) -> bool:
    return isinstance(value, str) or _is_text_list(value)


def _are_token_ids(value: Any) -> bool:
    ids = value if isinstance(value, list) and value else [value]
    return all(TOKEN_ID.fits(token_id) for token_id in ids)


def _are_factors(value: Any) -> bool:
    return isinstance(value, list) and all(FACTOR.fits(item) for item in value)


def _are_switches(value: Any) -> bool:
    return isinstance(value, list) and all(item in (0, 1) for item in value)


def _are_label_names(value: Any) -> bool:
    if not isinstance(value, dict) or not 1 <= len(value) <= MOST_LABELS:
        return False
    numbers = {str(number) for number in range(len(value))}
    return value.keys() == numbers and all(isinstance(name, str) for name in value.values())


SIZE = _whole(1)
SIZE_OR_NULL = _whole(1, null=True)
LAYERS = _whole(1, MOST_LAYERS)
LAYERS_OR_NULL = _whole(1, MOST_LAYERS, null=True)
COUNT = _whole(0)
COUNT_OR_NONE = _whole(-1, null=True)
TOKEN_ID = _whole(-1, null=True)
EPSILON = _number(1e-30, 1)
FACTOR = _number(1e-6, 1e6)
TEXT = Rule(lambda value: isinstance(value, str), "a text", null=True)
TRUTH = Rule(lambda value: isinstance(value, bool), "true, false")
TRUTH_OR_NULL = Rule(TRUTH.fits, "true, false", null=True)

# An entry has one meaning in all model types, under the name that each of them gives it.
RULES = {
    "vocab_size": SIZE,
    "hidden_size": SIZE,
    "n_embd": SIZE,
    "d_model": SIZE,
    "intermediate_size": SIZE,
    "n_inner": SIZE_OR_NULL,
    "d_ff": SIZE,
    "d_kv": SIZE,
    "head_dim": SIZE_OR_NULL,
    "attention_head_size": SIZE_OR_NULL,
    "embedding_size": SIZE_OR_NULL,
    "pooler_hidden_size": SIZE_OR_NULL,
    "num_hidden_layers": LAYERS,
    "n_layer": LAYERS,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS_OR_NULL,
    "num_attention_heads": SIZE,
    "n_head": SIZE,
    "num_heads": SIZE,
    "num_key_value_heads": SIZE_OR_NULL,
    "max_position_embeddings": SIZE,
    "n_positions": SIZE,
    "original_max_position_embeddings": SIZE_OR_NULL,
    "type_vocab_size": COUNT,
    "sliding_window": SIZE_OR_NULL,
    "sliding_window_pattern": SIZE,
    "no_rope_layer_interval": SIZE,
    "no_rope_layers": Rule(_are_switches, "a list of 0 and 1", null=True),
    "num_local_experts": _whole(1, MOST_EXPERTS),
    "num_experts_per_tok": SIZE,
    "max_window_layers": COUNT,
    "relative_attention_num_buckets": SIZE,
    "relative_attention_max_distance": SIZE,
    "max_relative_positions": COUNT_OR_NONE,
    "position_buckets": COUNT_OR_NONE,
    "conv_kernel_size": COUNT_OR_NONE,
    "conv_groups": SIZE_OR_NULL,
    "rms_norm_eps": EPSILON,
    "layer_norm_eps": EPSILON,
    "layer_norm_epsilon": EPSILON,
    "initializer_range": _number(0, 1),
    "initializer_factor": _number(0, 1000),
    "attention_dropout": _rate(),
    "attention_probs_dropout_prob": _rate(),
    "attn_pdrop": _rate(),
    "classifier_dropout": _rate(),
    "cls_dropout": _rate(),
    "dropout_rate": _rate(),
    "embd_pdrop": _rate(),
    "hidden_dropout_prob": _rate(),
    "pooler_dropout": _rate(),
    "resid_pdrop": _rate(),
    "query_pre_attn_scalar": _number(1e-6, 1e9),
    "attn_logit_softcapping": _number(1e-6, 1e9, null=True),
    "final_logit_softcapping": _number(1e-6, 1e9, null=True),
    "attention_multiplier": FACTOR,
    "embedding_multiplier": FACTOR,
    "logits_scaling": FACTOR,
    "residual_multiplier": FACTOR,
    "router_jitter_noise": _rate(),
    "rope_theta": _number(1, 1e12, null=True),
    "rope_local_base_freq": _number(1, 1e12, null=True),
    "attention_factor": _number(1e-6, 1e6, null=True),
    "short_factor": Rule(_are_factors, "a list of numbers from 1e-06 to 1e+06", null=True),
    "long_factor": Rule(_are_factors, "a list of numbers from 1e-06 to 1e+06", null=True),
    "factor": _number(1, 1e6, null=True),
    "low_freq_factor": _number(1e-6, 1e6, null=True),
    "high_freq_factor": _number(1e-6, 1e6, null=True),
    "partial_rotary_factor": _number(0, 1, null=True),
    "rope_type": TEXT,
    "type": TEXT,
    "activation_function": TEXT,
    "conv_act": TEXT,
    "feed_forward_proj": TEXT,
    "hidden_act": TEXT,
    "hidden_activation": TEXT,
    "norm_rel_ebd": TEXT,
    "pooler_hidden_act": TEXT,
    "position_embedding_type": TEXT,
    "layer_types": Rule(_is_text_list, "a list of texts", null=True),
    "pos_att_type": Rule(_are_score_kinds, "a text or a list of texts", null=True),
    "pad_token_id": TOKEN_ID,
    "decoder_start_token_id": TOKEN_ID,
    "eos_token_id": Rule(_are_token_ids, "one or more token ids", null=True),
    "num_labels": _whole(1, MOST_LABELS, null=True),
    "id2label": Rule(_are_label_names, "an object of names for 0, 1, ...", null=True),
    "label2id": Rule(lambda value: isinstance(value, dict), "an object", null=True),
    "rope_parameters": Rule(lambda value: isinstance(value, dict), "an object", null=True),
    "rope_scaling": Rule(lambda value: isinstance(value, dict), "an object", null=True),
    "add_cross_attention": TRUTH,
    "attention_bias": TRUTH,
    "is_decoder": TRUTH,
    "mlp_bias": TRUTH,
    "position_biased_input": TRUTH_OR_NULL,
    "relative_attention": TRUTH_OR_NULL,
    "scale_attn_by_inverse_layer_idx": TRUTH,
    "scale_attn_weights": TRUTH,
    "share_att_key": TRUTH_OR_NULL,
    "tie_word_embeddings": TRUTH,
    "use_bidirectional_attention": TRUTH_OR_NULL,
    "use_sliding_window": TRUTH,
}
ROTATIONS = ("rope_parameters", "rope_scaling")
# The part of a configuration of texts and images that is of texts.
TEXT_PART = "text_config"


def read_config(folder: Path) -> PretrainedConfig:
    """Read a folder's config.json.

    Args:
      folder: a Hugging Face folder.

    Returns:
      Hugging Face's configuration.

    Raises:
      BadInput: it is missing, invalid, of an unknown model type, or of quantized weights.
    """
    path = folder / CONFIG_FILE
    config = read_json(path)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        accepted = ", ".join(MODEL_TYPES)
        raise BadInput(f"{path}'s model_type is {shown(model_type)}; accepted: {accepted}")
    if config.get("quantization_config") is not None:
        raise BadInput(
            f"{path} has a quantization_config; accepted: weights that are not quantized"
        )
    if model_type == "mistral" and config.get("layer_types") is not None:
        raise BadInput(f"{path} has layer_types; accepted: mistral models with one window for all")
    _check(config, str(path))
    if TEXT_PART in config:
        _check_text_part(config[TEXT_PART], f"{path}'s {TEXT_PART}")
    try:
        return CONFIG_MAPPING[model_type].from_dict(_with_current_names(config))
    except Exception as error:  # transformers' own checks raise anything
        raise BadInput(
            f"{path} is not a valid {model_type} configuration ({reason_of(error)}); accepted: "
            "what transformers accepts"
        ) from error


def _with_current_names(config: dict[str, Any]) -> dict[str, Any]:
    """Call LongRoPE by the name that transformers knows; Phi 3's first configurations say su."""
    config = dict(config)
    for name in ROTATIONS:
        rotation = dict(config.get(name) or {})
        for entry in ("type", "rope_type"):
            if rotation.get(entry) == "su":
                config[name] = {**rotation, entry: "longrope"}
    return config


def _check_text_part(config: Any, place: str) -> None:
    if not isinstance(config, dict):
        raise BadInput(f"{place} is {shown(config)}; accepted: an object")
    _check(config, place)


def _check(config: dict[str, Any], place: str) -> None:
    """Check the entries of a configuration, of its rotations, and of rotations by layer type."""
    _check_values(config, place)
    for name in ROTATIONS:
        rotations = config.get(name) or {}
        _check_values(rotations, f"{place}'s {name}")
        for kind, rotation in rotations.items():
            if isinstance(rotation, dict):
                _check_values(rotation, f"{place}'s {name} of {shown(kind)}")


def _check_values(values: dict[str, Any], place: str) -> None:
    """Raise BadInput for the first entry that its rule does not accept."""
    for name, value in values.items():
        rule = RULES.get(name)
        if rule is None:
            continue
        fits = rule.null if value is None else rule.fits(value)
        if not fits:
            accepted = f"null, {rule.accepted}" if rule.null else rule.accepted
            raise BadInput(f"{place}'s {name} is {shown(value)}; accepted: {accepted}")
