"""Configurations of small classifiers of every model type and switch."""

from decoder_cases import CASES as DECODERS
from transformers import BertConfig, DebertaV2Config, GPT2Config, RobertaConfig, T5Config

SIZES = dict(
    vocab_size=67,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=64,
    num_labels=3,
)
V3 = dict(
    **SIZES,
    pad_token_id=0,
    relative_attention=True,
    position_buckets=8,
    max_relative_positions=-1,
    norm_rel_ebd="layer_norm",
    share_att_key=True,
    pos_att_type="p2c|c2p",
    position_biased_input=False,
    type_vocab_size=0,
)
GPT2 = dict(
    vocab_size=67, n_embd=32, n_layer=3, n_head=4, n_positions=64, pad_token_id=0, bos_token_id=1
)
T5 = dict(
    vocab_size=67,
    d_model=32,
    d_kv=6,
    d_ff=48,
    num_layers=3,
    num_decoder_layers=2,
    num_heads=4,
    num_labels=3,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=14,
    decoder_start_token_id=0,
)


NEWER = ("gemma3_text", "phi3", "mixtral", "olmo2", "smollm3")


def labeled(name):
    config = type(DECODERS[name])(**DECODERS[name].to_dict())
    config.num_labels = 3
    return config


CASES = {
    "bert": BertConfig(**SIZES, pad_token_id=0),
    "bert-relu": BertConfig(**SIZES, pad_token_id=0, hidden_act="relu", type_vocab_size=3),
    "roberta": RobertaConfig(**SIZES, pad_token_id=1, type_vocab_size=1),
    "deberta-v3": DebertaV2Config(**V3),
    "deberta-own-kernels": DebertaV2Config(**{**V3, "share_att_key": False}),
    "deberta-c2p": DebertaV2Config(**{**V3, "pos_att_type": ["c2p"]}),
    "deberta-p2c": DebertaV2Config(
        **{**V3, "pos_att_type": ["p2c"], "share_att_key": False, "norm_rel_ebd": "none"}
    ),
    "deberta-no-buckets": DebertaV2Config(
        **{**V3, "position_buckets": -1, "max_relative_positions": 6}
    ),
    "deberta-conv": DebertaV2Config(**V3, conv_kernel_size=3, conv_act="gelu", conv_groups=2),
    "deberta-far": DebertaV2Config(
        **{**V3, "max_relative_positions": 12}, embedding_size=20, pooler_hidden_act="tanh"
    ),
    "deberta-absolute": DebertaV2Config(**SIZES, relative_attention=False, type_vocab_size=2),
    "gpt2": GPT2Config(**GPT2, num_labels=3),
    "gpt2-plain-scores": GPT2Config(**GPT2, num_labels=3, scale_attn_weights=False, n_inner=40),
    "t5": T5Config(**T5),
    "t5-gated": T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    **{name: labeled(name) for name in ("llama", "gemma2", *NEWER)},
}
TYPES = ("bert", "roberta", "deberta-v3", "gpt2", "t5", "llama")
