"""The default sharding rules: the mesh axes of each parameter's dimensions.

Rules are an ordered table of (regular expression, axes). The first expression found in a leaf's
path gives the mesh axes of its last dimensions. An adapter's A and B are sharded as its kernel is:
the input side of A like the kernel's rows, the output side of B like its columns. Both are divided
over fsdp in any case, or every device would hold half of the adapters, their gradients and the
optimizer's state in full.
"""

MeshAxes = str | tuple[str, ...] | None
ShardingRules = tuple[tuple[str, tuple[MeshAxes, ...]], ...]

TENSOR_AND_FSDP = ("tensor", "fsdp")

DEFAULT_RULES: ShardingRules = (
    (r"embedding$", ("tensor", "fsdp")),
    (r"kernel$", ("fsdp", "tensor")),
    (r"/a$", ("fsdp", None)),
    (r"/b$", (None, TENSOR_AND_FSDP)),
)
