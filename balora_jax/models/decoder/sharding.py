"""A decoder's sharding rules: o reads q, k and v; down (of experts w2) reads gate and up."""

from balora_jax.models.sharding import row_parallel

DECODER_RULES = row_parallel(r"(o_proj|down_proj|w2)")
