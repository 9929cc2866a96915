"""The configuration of a BERT-like encoder, read from Hugging Face's."""

from dataclasses import dataclass

from transformers import PretrainedConfig

from balora_jax.errors import BadInput, shown
from balora_jax.models.layers.activations import check_activation
from balora_jax.models.sizes import require, require_divisor, require_token


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes and switches of an encoder; hashable, so a model can be a static argument of jit.

    Attributes:
      model_type: Hugging Face's name of the architecture.
      vocab_size: V.
      hidden_size: d.
      intermediate_size: width of the MLP.
      layers: number of layers.
      heads: attention heads.
      max_positions: rows of the position embedding.
      token_types: rows of the token type embedding; 0 for none.
      activation: the MLP's activation, a key of ACTIVATIONS.
      norm_eps: epsilon of the norms.
      hidden_dropout: dropout rate of the embeddings and of each residual branch.
      attention_dropout: dropout rate of the attention weights.
      classifier_dropout: dropout rate of the classification head.
      init_std: standard deviation of fresh kernels and embeddings.
      pad_token_id: the token of padding, or None.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    max_positions: int
    token_types: int
    activation: str
    norm_eps: float
    hidden_dropout: float
    attention_dropout: float
    classifier_dropout: float
    init_std: float
    pad_token_id: int | None

    @property
    def max_length(self) -> int:
        """The longest text the model accepts, in tokens."""
        if self.model_type == "roberta":
            # RoBERTa numbers tokens from pad_token_id + 1.
            return self.max_positions - (self.pad_token_id + 1)
        return self.max_positions


def encoder_config(hf: PretrainedConfig) -> EncoderConfig:
    """Translate a Hugging Face configuration.

    Args:
      hf: the configuration, of type bert or roberta.

    Returns:
      The encoder's configuration.

    Raises:
      BadInput: a setting is not supported.
    """
    if hf.is_decoder or hf.add_cross_attention:
        raise BadInput(f"config.json makes the {hf.model_type} model a decoder; accepted: encoders")
    position_type = getattr(hf, "position_embedding_type", "absolute")
    if position_type != "absolute":
        raise BadInput(
            f"config.json's position_embedding_type is {shown(position_type)}; accepted: absolute"
        )
    require_divisor("hidden_size", hf.hidden_size, "num_attention_heads", hf.num_attention_heads)
    require_token("pad_token_id", hf.pad_token_id, hf.vocab_size)
    if hf.model_type == "roberta":
        _check_numbered_positions(hf)
    classifier_dropout = hf.classifier_dropout
    if classifier_dropout is None:
        classifier_dropout = hf.hidden_dropout_prob
    return EncoderConfig(
        model_type=hf.model_type,
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        layers=hf.num_hidden_layers,
        heads=hf.num_attention_heads,
        max_positions=hf.max_position_embeddings,
        token_types=hf.type_vocab_size,
        activation=check_activation(hf.hidden_act),
        norm_eps=hf.layer_norm_eps,
        hidden_dropout=hf.hidden_dropout_prob,
        attention_dropout=hf.attention_probs_dropout_prob,
        classifier_dropout=classifier_dropout,
        init_std=hf.initializer_range,
        pad_token_id=hf.pad_token_id,
    )


def _check_numbered_positions(hf: PretrainedConfig) -> None:
    """Check that RoBERTa can number tokens from pad_token_id + 1."""
    pad_token_id = hf.pad_token_id
    highest = hf.max_position_embeddings - 2
    fits = pad_token_id is not None and 0 <= pad_token_id <= highest
    accepted = f"a whole number from 0 to max_position_embeddings - 2, which is {highest}"
    require(fits, "pad_token_id", pad_token_id, accepted)
