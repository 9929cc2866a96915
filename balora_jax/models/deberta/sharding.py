"""DeBERTa's sharding rules: output reads self in an attention, intermediate in an MLP."""

from balora_jax.models.sharding import row_parallel

DEBERTA_RULES = row_parallel(r"output/dense")
