"""The configuration of a GPT-2, read from Hugging Face's."""

from dataclasses import dataclass

from transformers import PretrainedConfig

from balora_jax.errors import BadInput
from balora_jax.models.layers.activations import check_activation
from balora_jax.models.sizes import require_divisor, require_token


@dataclass(frozen=True)
class Gpt2Config:
    """The sizes and switches of a GPT-2; hashable, so a model can be a static argument of jit.

    Attributes:
      model_type: Hugging Face's name of the architecture.
      vocab_size: V.
      hidden_size: d.
      intermediate_size: width of the MLP.
      layers: number of blocks.
      heads: attention heads.
      kv_heads: key and value heads, as many as `heads`.
      head_dim: D, the size of a head.
      max_positions: rows of the position embedding.
      activation: the MLP's activation, a key of ACTIVATIONS.
      norm_eps: epsilon of the norms.
      scaled: True if attention scores are divided by the square root of head_dim.
      embedding_dropout: dropout rate of the embeddings.
      attention_dropout: dropout rate of the attention weights.
      hidden_dropout: dropout rate of each residual branch.
      tied: True if the head is the transposed embedding.
      init_std: standard deviation of fresh kernels and embeddings.
      pad_token_id: the token of padding, or None.
      final_softcap: None; GPT-2 caps no logits.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    activation: str
    norm_eps: float
    scaled: bool
    embedding_dropout: float
    attention_dropout: float
    hidden_dropout: float
    tied: bool
    init_std: float
    pad_token_id: int | None
    final_softcap: None = None

    @property
    def max_length(self) -> int:
        """The longest text the model accepts, in tokens."""
        return self.max_positions


def gpt2_config(hf: PretrainedConfig) -> Gpt2Config:
    """Translate a Hugging Face configuration.

    Args:
      hf: the configuration, of type gpt2.

    Returns:
      The GPT-2's configuration.

    Raises:
      BadInput: a setting is not supported.
    """
    for name in ("add_cross_attention", "scale_attn_by_inverse_layer_idx"):
        if getattr(hf, name):
            raise BadInput(f"config.json has {name}; accepted: GPT-2 without it")
    require_divisor("n_embd", hf.n_embd, "n_head", hf.n_head)
    require_token("pad_token_id", hf.pad_token_id, hf.vocab_size)
    return Gpt2Config(
        model_type=hf.model_type,
        vocab_size=hf.vocab_size,
        hidden_size=hf.n_embd,
        intermediate_size=hf.n_inner or 4 * hf.n_embd,
        layers=hf.n_layer,
        heads=hf.n_head,
        kv_heads=hf.n_head,
        head_dim=hf.n_embd // hf.n_head,
        max_positions=hf.n_positions,
        activation=check_activation(hf.activation_function),
        norm_eps=hf.layer_norm_epsilon,
        scaled=hf.scale_attn_weights,
        embedding_dropout=hf.embd_pdrop,
        attention_dropout=hf.attn_pdrop,
        hidden_dropout=hf.resid_pdrop,
        tied=bool(hf.tie_word_embeddings),
        init_std=hf.initializer_range,
        pad_token_id=hf.pad_token_id,
    )
