"""Tiny random PyTorch models, the reference of the parity tests."""

import pytest
import torch
import transformers
from pytorch_reference import Reference


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A function (name, config, automodel, **save) -> Reference, created once per name."""
    references: dict[str, Reference] = {}

    def make(name: str, config, automodel=transformers.AutoModelForCausalLM, **save) -> Reference:
        if name not in references:
            torch.manual_seed(0)
            model = automodel.from_config(config, attn_implementation="eager")
            references[name] = Reference(model, tmp_path_factory.mktemp(name), **save)
        return references[name]

    return make
