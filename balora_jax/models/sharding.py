"""The default sharding rules: the mesh axes of each parameter's dimensions.

Rules are an ordered table of (regular expression, axes). The first expression found in a leaf's
path gives the mesh axes of its last dimensions. An adapter's A and B are sharded as its kernel is:
the input side of A like the kernel's rows, the output side of B like its columns. Both are divided
over fsdp in any case, or every device would hold half of the adapters, their gradients and the
optimizer's state in full.
"""

MeshAxes = str | tuple[str, ...] | None
ShardingRules = tuple[tuple[str, tuple[MeshAxes, ...]], ...]

# The axes of a mesh that divide texts; the second one divides weights, too.
DATA = "data"
FSDP = "fsdp"
TENSOR = "tensor"
TENSOR_AND_FSDP = ("tensor", "fsdp")

DEFAULT_RULES: ShardingRules = (
    (r"embedding$", ("tensor", "fsdp")),
    (r"kernel$", ("fsdp", "tensor")),
    (r"/a$", ("fsdp", None)),
    (r"/b$", (None, TENSOR_AND_FSDP)),
)


def row_parallel(layers: str) -> ShardingRules:
    """Return the rules of a model some of whose layers read what others have divided.

    The columns of most kernels are divided over the tensor axis, and so are the rows of those that
    read their outputs: one sum over devices for each attention and each MLP (Megatron, Shoeybi et
    al., arXiv 1909.08053).

    Args:
      layers: a regular expression of the ends of the paths of the layers that read.
    """
    return (
        (rf"{layers}/kernel$", ("tensor", "fsdp")),
        (rf"{layers}/a$", (TENSOR_AND_FSDP, None)),
        (rf"{layers}/b$", (None, "fsdp")),
        *DEFAULT_RULES,
    )
