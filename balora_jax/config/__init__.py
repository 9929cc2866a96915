"""The configuration of a run: one frozen dataclass a section, checked before anything compiles.

The text below each field is its description in `--help`. Nothing here imports jax.
"""

from balora_jax.config.adapter import PAPER_TARGETS, AdapterConfig
from balora_jax.config.data import DataConfig
from balora_jax.config.evaluation import EvaluationConfig
from balora_jax.config.mesh import MeshConfig
from balora_jax.config.model import ModelConfig
from balora_jax.config.output import OutputConfig
from balora_jax.config.regularizers import (
    ConsistencyConfig,
    DiversityConfig,
    RegularizersConfig,
    SvdConfig,
    TermConfig,
    regularizers_config,
)
from balora_jax.config.run import Method, RunConfig
from balora_jax.config.training import OptimizerConfig, TrainingConfig

__all__ = [
    "PAPER_TARGETS",
    "AdapterConfig",
    "ConsistencyConfig",
    "DataConfig",
    "DiversityConfig",
    "EvaluationConfig",
    "MeshConfig",
    "Method",
    "ModelConfig",
    "OptimizerConfig",
    "OutputConfig",
    "RegularizersConfig",
    "RunConfig",
    "SvdConfig",
    "TermConfig",
    "TrainingConfig",
    "regularizers_config",
]
