"""Low-rank adapters: pure functions from trees to trees."""

from balora_jax.adapters.lora import (
    AdapterSpec,
    init_lora,
    merge,
    residual,
    student_path,
    teacher_path,
)
from balora_jax.adapters.pissa import init_pissa, principal_factors
from balora_jax.adapters.targets import check_rank, match_targets

__all__ = [
    "AdapterSpec",
    "check_rank",
    "init_lora",
    "init_pissa",
    "match_targets",
    "merge",
    "principal_factors",
    "residual",
    "student_path",
    "teacher_path",
]
