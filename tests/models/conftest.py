"""Tiny random PyTorch models, the reference that ours are held against."""

import pytest
import torch
import transformers
from pytorch_reference import Reference


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`tiny(name, config, automodel=..., **save)`: a Reference, made once a session and name."""
    made: dict[str, Reference] = {}

    def make(name: str, config, automodel=transformers.AutoModelForCausalLM, **save) -> Reference:
        if name not in made:
            torch.manual_seed(0)
            model = automodel.from_config(config, attn_implementation="eager")
            made[name] = Reference(model, tmp_path_factory.mktemp(name), **save)
        return made[name]

    return make
