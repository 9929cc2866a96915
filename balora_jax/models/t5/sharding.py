"""T5's sharding rules: o reads q, k and v in an attention, and wo reads wi in an MLP."""

from balora_jax.models.sharding import row_parallel

T5_RULES = row_parallel(r"(Attention/o|wo)")
