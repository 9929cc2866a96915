"""The least recomputation with which the update fits, and notices where none fits."""

import dataclasses
import functools
import io

import jax
import pytest
from rich.console import Console

from balora_jax import models
from balora_jax.config.parse import read_config
from balora_jax.runs import remat
from balora_jax.runs.setup import batch_shapes, build_setup
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.training.memory import device_bytes
from balora_jax.training.sharding import make_mesh
from balora_jax.training.times import Times

# Bytes that an update needs under each policy.
NEEDED = {"none": 3000, "dots": 2000, "full": 1000}


@pytest.fixture
def compile_within(run_arguments, tiny_llama, tmp_path, monkeypatch):
    """(bytes of a device, policy) -> (the update that is taken for it, what was printed)."""
    config = read_config(run_arguments(tmp_path / "run"))
    model = models.load_model(tiny_llama, dtype="float32")
    build = functools.partial(build_setup, model=model, mesh=make_mesh(config.mesh), steps=4)

    def compile_nothing(self, batch):
        self.bytes = NEEDED[self.setup.model.remat]

    monkeypatch.setattr(CompiledStep, "compile", compile_nothing)

    def compile_update(limit, policy="auto"):
        training = dataclasses.replace(config.training, remat=policy)
        chosen = dataclasses.replace(config, training=training)
        printed = io.StringIO()
        compiled = remat.compile_update(
            chosen,
            build(chosen),
            build,
            batch_shapes(config, model, 256),
            Times(),
            Console(file=printed, width=200),
            limit,
        )
        return compiled, printed.getvalue()

    return compile_update


@pytest.mark.parametrize("policy", NEEDED)
def test_auto_takes_the_first_policy_that_fits(compile_within, policy):
    compiled, printed = compile_within(NEEDED[policy] / remat.SHARE + 1)
    assert compiled.setup.model.remat == policy
    assert ("auto takes" in printed) == (policy != "none")
    assert "may not fit" not in printed


def test_memory_that_is_not_known_needs_no_recomputation(compile_within):
    compiled, printed = compile_within(None)
    assert compiled.setup.model.remat == "none" and not printed


@pytest.mark.parametrize("policy", ["auto", "none"])
def test_a_notice_where_nothing_fits(compile_within, policy):
    compiled, printed = compile_within(900, policy)
    assert compiled.setup.model.remat == ("full" if policy == "auto" else "none")
    assert "may not fit: raise training.accumulation" in printed


def test_a_compiler_that_refuses_is_asked_for_more_recomputation(compile_within, monkeypatch):
    """Compilers for TPUs raise where others compile what does not fit."""
    compile_any = CompiledStep.compile

    def refuse(self, batch):
        if self.setup.model.remat != "full":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in hbm")
        return compile_any(self, batch)

    monkeypatch.setattr(CompiledStep, "compile", refuse)
    compiled, _ = compile_within(None)
    assert compiled.setup.model.remat == "full"
    with pytest.raises(jax.errors.JaxRuntimeError):
        compile_within(None, "dots")


def test_cpus_share_the_memory_of_the_host():
    each = device_bytes(jax.local_devices()[0])
    assert 2**24 < each < 2**50
