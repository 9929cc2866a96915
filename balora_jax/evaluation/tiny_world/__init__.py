"""A tiny model and task with planted defects, which are measured before and after fine-tuning."""

from balora_jax.evaluation.tiny_world.probes import TITLES, Measure, Probe, make_probes, measure
from balora_jax.evaluation.tiny_world.questions import make_questions
from balora_jax.evaluation.tiny_world.world import World, make_world

__all__ = [
    "TITLES",
    "Measure",
    "Probe",
    "World",
    "make_probes",
    "make_questions",
    "make_world",
    "measure",
]
