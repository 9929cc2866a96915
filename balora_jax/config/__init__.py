"""A run's configuration: frozen dataclasses, one a section, checked before anything compiles.

Fields carry their meaning in the text below them, which `--help` shows. No jax is imported here.
"""

from balora_jax.config.adapter import PAPER_TARGETS, AdapterConfig
from balora_jax.config.data import DataConfig
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
from balora_jax.config.training import MeshConfig, OptimizerConfig, TrainingConfig

__all__ = [
    "PAPER_TARGETS",
    "AdapterConfig",
    "ConsistencyConfig",
    "DataConfig",
    "DiversityConfig",
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
