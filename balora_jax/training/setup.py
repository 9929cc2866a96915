"""A run's update as shapes and functions, and the model that it trains once there are weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import optax
from jax.sharding import Mesh

from balora_jax.adapters import AdapterSpec, student_lora
from balora_jax.objective.params import Params, Tree
from balora_jax.regularizers.terms import Term
from balora_jax.training.state import Path, TrainState, combine
from balora_jax.training.step import Step


@dataclasses.dataclass(frozen=True)
class TrainSetup:
    """Everything that a run's configuration, model and mesh decide, before any weight is read.

    Attributes:
      model: the Linen module in its compute dtype, with its remat policy and dropout rate.
      spec: rank, scale and form of the adapters.
      terms: the regularizers that act.
      mesh: the devices.
      mask: True at the trained leaves of the parameters.
      optimizer: masked likewise.
      step: the update; compile it for batches of a shape with `CompiledStep`.
      state: shapes, dtypes and shardings of the state that the step takes.
      frozen: likewise of the frozen parameters.
      head_frozen: whether a language model's output layer is neither trained nor adapted, so that
        the objective can stream.
      head: the modules of the base that are trained whole: a classifier's head, or those of a
        language model's `adapter.modules_to_save`.
    """

    model: Any
    spec: AdapterSpec
    terms: Mapping[str, Term]
    mesh: Mesh
    mask: Params
    optimizer: optax.GradientTransformation
    step: Step
    state: TrainState
    frozen: Params
    head_frozen: bool
    head: tuple[Path, ...]

    @property
    def loss_mesh(self) -> Mesh | None:
        """The mesh where it has several devices, for losses that place arrays on it."""
        return self.mesh if self.mesh.size > 1 else None


@dataclasses.dataclass(frozen=True)
class Student:
    """The model that is trained: its setup and its frozen weights; the rest is in a TrainState.

    Attributes:
      setup: the run's setup.
      frozen: its frozen weights, on the mesh.
    """

    setup: TrainSetup
    frozen: Params

    @property
    def model(self) -> Any:
        """The Linen module."""
        return self.setup.model

    def params(self, state: TrainState) -> Params:
        """All parameters, the trained ones as they are evaluated at `state`."""
        return combine(state.evaluated, self.frozen, self.setup.mask)

    def base_params(self, state: TrainState) -> Tree:
        """The parameters of the model before training, with a classifier's head as evaluated."""
        return self.params(state).teacher_base

    def lora(self, state: TrainState) -> Tree:
        """The `lora` collection that the model is applied with beside `params(state).base`."""
        return student_lora(state.evaluated.adapters, self.frozen.initial, self.setup.spec)

    def delta_lora(self, state: TrainState) -> Tree:
        """The learned change of the untouched base, also where training has the residual form."""
        delta = dataclasses.replace(self.setup.spec, form="delta")
        return student_lora(state.evaluated.adapters, self.frozen.initial, delta)
