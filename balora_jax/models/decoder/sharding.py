"""A decoder's sharding rules: column-parallel layers followed by row-parallel ones.

The columns of q, k, v, gate, up (of experts w1 and w3) and lm_head are divided over the tensor
axis, and so are the rows of o and down (w2), which read their outputs: one sum over devices per
attention and per MLP (Megatron, Shoeybi et al., arXiv 1909.08053).
"""

from balora_jax.models.sharding import DEFAULT_RULES, TENSOR_AND_FSDP, ShardingRules

COLUMN_PARALLEL = r"(q_proj|k_proj|v_proj|qkv_proj|gate_proj|up_proj|gate_up_proj|w1|w3|lm_head)"
ROW_PARALLEL = r"(o_proj|down_proj|w2)"

DECODER_RULES: ShardingRules = (
    (rf"{COLUMN_PARALLEL}/kernel$", ("fsdp", "tensor")),
    (rf"{ROW_PARALLEL}/kernel$", ("tensor", "fsdp")),
    (rf"{ROW_PARALLEL}/a$", (TENSOR_AND_FSDP, None)),
    (rf"{ROW_PARALLEL}/b$", (None, "fsdp")),
    *DEFAULT_RULES,
)
