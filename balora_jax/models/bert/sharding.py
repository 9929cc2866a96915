"""The rules of BERT and RoBERTa: output reads self in an attention, intermediate in an MLP."""

from balora_jax.models.sharding import row_parallel

BERT_RULES = row_parallel(r"output/dense")
