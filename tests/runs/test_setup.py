"""The update from shapes alone, and the same update once there are weights."""

import dataclasses

import jax
import numpy as np
import pytest
from classification_cases import letter_rows, save_model, write_rows
from flax import traverse_util
from seq2seq_cases import save_t5

from balora_jax import models
from balora_jax.config import MeshConfig
from balora_jax.config.parse import read_config
from balora_jax.runs.first_gradient import first_gradient
from balora_jax.runs.run import set_up
from balora_jax.runs.setup import batch_shapes, build_setup
from balora_jax.runs.weights import load_model, materialize
from balora_jax.runs.whole_modules import trained_modules
from balora_jax.training.compiled_step import CompiledStep
from balora_jax.training.sharding import make_mesh
from balora_jax.training.subtrees import select, update, without


def test_no_weights_are_needed(run_arguments, tiny_llama, tmp_path):
    """A configuration, a model without weights and a mesh are enough to compile."""
    config = read_config(run_arguments(tmp_path / "run"))
    model = models.load_model(tiny_llama, dtype="float32")
    nowhere = dataclasses.replace(config.model, source="a/model/that/is/not/here")
    config = dataclasses.replace(config, model=nowhere)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    setup = build_setup(config, model, mesh, steps=10)
    leaves = jax.tree.leaves((setup.state, setup.frozen))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    compiled = CompiledStep(setup, config.training.accumulation)
    program = compiled.compile(batch_shapes(config, model, 32))
    assert program.cost_analysis()["flops"] > 0 and compiled.bytes > 0


TASKS = ["causal-lm", "sequence-classification", "seq2seq-lm"]


def _arguments(task, run_arguments, folder):
    if task == "causal-lm":
        return run_arguments(folder / "run")
    rows = write_rows(folder / "rows.jsonl", letter_rows(16, 0))
    if task == "seq2seq-lm":
        source = save_t5(folder / "t5")
        labels = "[few, many]"
    else:
        source = save_model("bert", folder / "bert")
        labels = "2"
    given = {
        "model.source": source or folder / "bert",
        "model.task": task,
        "model.dtype": "float32",
        "adapter.rank": 2,
        "adapter.targets": "all-linear",
        "data.train": rows,
        "data.labels": labels,
        "training.steps": 3,
        "training.batch_size": 8,
        "training.precision": "float32",
        "mesh.data": 1,
        "output.dir": folder / "run",
    }
    return [text for key, value in given.items() for text in (f"--{key}", str(value))]


@pytest.mark.parametrize("task", TASKS)
def test_shapes_are_those_of_the_weights_and_the_batches(task, run_arguments, tmp_path):
    """Every leaf of a setup, and every array of a batch, has the shape and dtype it announces."""
    config = read_config(_arguments(task, run_arguments, tmp_path))
    run = set_up(config)
    loaded = load_model(config, run.mesh)
    head = trained_modules(config, loaded)
    setup = build_setup(config, loaded.model, run.mesh, steps=run.steps, head=head)
    training_data = run.task.prepare(loaded, run.mesh, run.steps, None)
    student, state = materialize(config, setup, training_data.base)
    for shape, leaf in zip(
        jax.tree.leaves((setup.state, setup.frozen)),
        jax.tree.leaves((state, student.frozen)),
        strict=True,
    ):
        assert (shape.shape, shape.dtype, shape.sharding) == (leaf.shape, leaf.dtype, leaf.sharding)

    batch = next(run.task.batches(training_data, run.steps))
    length = batch.input_ids.shape[-1]
    answer_length = batch.targets.shape[-1]
    rows = None if batch.segment_ids is None else len(batch.input_ids)
    shapes = batch_shapes(
        config, loaded.model, length, answer_length=answer_length, packed_rows=rows
    )
    announced = jax.tree.map(lambda array: (array.shape, array.dtype), shapes)
    assert announced == jax.tree.map(lambda array: (array.shape, array.dtype), batch)
    longest, *_ = run.task.batch_kinds(training_data, run.steps)
    assert longest.input_ids.shape[-1] >= length
    compiled = CompiledStep(setup, config.training.accumulation)
    compiled.compile(shapes)
    _, metrics = compiled(state, student.frozen, batch)
    assert np.isfinite(metrics["loss"]) and compiled.lengths == [length]


def test_parts_of_a_tree():
    tree = {"head": {"w": 1}, "body": {"w": 2, "b": 3}}
    assert select(tree, [("head",)]) == {"head": {"w": 1}}
    assert without(tree, [("head",)]) == {"body": {"w": 2, "b": 3}}
    assert update(tree, {"body": {"b": 4}}) == {"head": {"w": 1}, "body": {"w": 2, "b": 4}}


def test_a_first_gradient_is_divided_as_its_kernels_are(run_arguments, tmp_path):
    """On a mesh, and it is the same as on one device, whatever the accumulation."""
    gradients = []
    for mesh in (MeshConfig(data=1), MeshConfig(data=2, fsdp=2, tensor=2)):
        config = read_config(run_arguments(tmp_path / "run", "--adapter.init", "lora_ga"))
        accumulation = 2 if mesh.data == 1 else 1
        training = dataclasses.replace(config.training, accumulation=accumulation)
        config = dataclasses.replace(config, mesh=mesh, training=training)
        run = set_up(config)
        loaded = load_model(config, run.mesh)
        setup = build_setup(config, loaded.model, run.mesh, steps=run.steps)
        training_data = run.task.prepare(loaded, run.mesh, run.steps, None)
        batch = next(run.task.batches(training_data, run.steps))
        gradients.append(first_gradient(config, setup, loaded.params, batch))
        flat = traverse_util.flatten_dict(loaded.params)
        for path, gradient in gradients[-1].items():
            kernel = flat[(*path, "kernel")]
            assert gradient.sharding == kernel.sharding and gradient.dtype == np.float32
    for path, gradient in gradients[0].items():
        np.testing.assert_allclose(gradient, gradients[1][path], rtol=1e-3, atol=1e-6)
