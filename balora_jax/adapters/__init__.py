"""Low-rank adapters: pure functions from trees to trees."""

from balora_jax.adapters.compress import Compressed, compress
from balora_jax.adapters.lora import (
    init_lora,
    scale_change,
    student_lora,
    teacher_lora,
    trained_lora,
)
from balora_jax.adapters.lora_ga import gradient_factors, init_lora_ga, kernel_gradients
from balora_jax.adapters.merge import MergedKernel, merge, merged_when_read, residual
from balora_jax.adapters.pissa import init_pissa, principal_factors
from balora_jax.adapters.spec import AdapterSpec
from balora_jax.adapters.starts import STARTS, Start, find_start
from balora_jax.adapters.targets import (
    adapted_leaf,
    check_rank,
    dotted,
    embedding_tables,
    is_inside,
    layers_matching,
    match_targets,
)

__all__ = [
    "STARTS",
    "AdapterSpec",
    "Compressed",
    "MergedKernel",
    "Start",
    "adapted_leaf",
    "check_rank",
    "compress",
    "dotted",
    "embedding_tables",
    "find_start",
    "gradient_factors",
    "init_lora",
    "init_lora_ga",
    "init_pissa",
    "is_inside",
    "kernel_gradients",
    "layers_matching",
    "match_targets",
    "merge",
    "merged_when_read",
    "principal_factors",
    "residual",
    "scale_change",
    "student_lora",
    "teacher_lora",
    "trained_lora",
]
