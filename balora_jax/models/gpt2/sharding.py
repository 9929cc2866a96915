"""GPT-2's sharding rules: c_proj reads c_attn in an attention, and c_fc in an MLP."""

from balora_jax.models.sharding import row_parallel

GPT2_RULES = row_parallel(r"c_proj")
