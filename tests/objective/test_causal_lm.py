"""The loss of next-token prediction: student and teacher as one or two, and trained modules."""

import dataclasses
import re

import decoder_cases
import float64_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from term_cases import PAPER, nlg_terms
from transformers import GPT2Config, LlamaConfig

from balora_jax import adapters, data, models
from balora_jax.adapters import AdapterSpec
from balora_jax.config import DiversityConfig, MeshConfig, RegularizersConfig, SvdConfig
from balora_jax.data import Batch
from balora_jax.models.hf.registry import MODEL_TYPES
from balora_jax.objective import causal_lm
from balora_jax.objective.params import Params
from balora_jax.objective.spectrum import head_factor
from balora_jax.training.sharding import make_mesh, tree_shardings
from balora_jax.training.subtrees import select, update

SIZES = {
    "llama": LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2,
    ),
    "gpt2": GPT2Config(
        vocab_size=96, n_embd=32, n_layer=3, n_head=4, n_positions=16, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=1,
    ),
}  # fmt: skip
TERMS = RegularizersConfig()
NO_TEACHER = dataclasses.replace(
    TERMS, consistency=dataclasses.replace(TERMS.consistency, weight=0.0)
)
WEIGHTS = {"consistency": 0.5, "diversity": 0.1, "svd": 0.2}


def _parts(name, form, remat):
    """(model, spec, params, batch): a random model whose adapters are not at their start."""
    kind = MODEL_TYPES[name]
    spec = AdapterSpec(4, form=form)
    model = kind.tasks["causal-lm"].module(kind.parse(SIZES[name]), remat=remat)
    base = models.init_params(model, jax.random.key(0))
    paths = adapters.match_targets("all-linear", base)
    start = adapters.init_pissa(base, paths, 4, key=jax.random.key(1))
    trained_adapters = jax.tree.map(lambda leaf: leaf * 1.2, start)
    factor = head_factor(models.head(model, base))
    params = Params(adapters=trained_adapters, base=base, head_factor=factor, initial=start)
    ids = jax.random.randint(jax.random.key(2), (8, 9), 0, 96)
    every_token = jnp.ones(ids.shape, bool)
    batch = Batch(ids, every_token, targets=jnp.roll(ids, -1, 1), mask=every_token)
    return model, spec, params, batch


def _program(parts, terms, sizes):
    """The compiled loss and gradient on a mesh of these sizes, and the arguments."""
    model, spec, params, batch = parts
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])
    loss_mesh = mesh if mesh.size > 1 else None
    loss = causal_lm.make_loss(model, spec, nlg_terms(terms), mesh=loss_mesh)

    weights = {name: WEIGHTS[name] for name in terms.acting}

    def loss_and_gradient(trained, params, batch):
        return jax.value_and_grad(
            lambda trained: loss(params.replace(adapters=trained), batch, None, weights)[0]
        )(trained)

    place = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    params = jax.device_put(params, tree_shardings(mesh, params, model.sharding_rules))
    arguments = (
        params.adapters,
        params,
        jax.device_put(batch, jax.tree.map(lambda _: place, batch)),
    )
    return jax.jit(loss_and_gradient).lower(*arguments).compile(), arguments


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("form", "remat"), [("delta", "full"), ("residual", "none")])
def test_joint_forward_equals_two_separate_ones(name, form, remat):
    parts = _parts(name, form, remat)
    separate, one_device = _program(parts, TERMS, (1, 1, 1))
    joint, eight_devices = _program(parts, TERMS, (1, 8, 1))
    value, gradient = joint(*eight_devices)
    true_value, true_gradient = separate(*one_device)
    np.testing.assert_allclose(value, true_value, rtol=1e-5)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(true_gradient), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-4, atol=1e-5 * float(jnp.abs(theirs).max())
        )


def test_the_teacher_gathers_no_additional_weight():
    parts = _parts("llama", "delta", "full")
    kernels = {
        kernel.shape[1:]
        for kernel in jax.tree.leaves(parts[2].base["model"]["layers"])
        if kernel.ndim == 3
    }

    def gathered(terms):
        """Count the kernel entries that a program gathers, with each loop's body counted once."""
        text = _program(parts, terms, (1, 8, 1))[0].as_text()
        shapes = [
            tuple(map(int, shape.split(",")))
            for shape in re.findall(r"f32\[([\d,]+)\]\S* all-gather\(", text)
        ]
        return sum(np.prod(shape) for shape in shapes if shape[-2:] in kernels)

    assert gathered(TERMS) == gathered(NO_TEACHER) > 0


def test_no_teacher_runs_without_a_term_that_needs_it():
    no_terms = RegularizersConfig(
        NO_TEACHER.consistency, DiversityConfig(weight=0.0), SvdConfig(weight=0.0)
    )
    parts = _parts("llama", "delta", "none")
    flops = [
        _program(parts, terms, (1, 1, 1))[0].cost_analysis()["flops"] for terms in (no_terms, TERMS)
    ]
    assert flops[0] < 0.8 * flops[1]


def _with_changed(parts, *modules):
    """The parts with some of the base's modules trained, and changed since."""
    model, spec, params, batch = parts
    pretrained = select(params.base, modules)
    changed = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.cos(37 * leaf), pretrained)
    base = update(params.base, changed)
    params = params.replace(base=base, pretrained=pretrained, head_factor=None)
    mask = batch.mask.at[:, :3].set(False).at[2].set(False)
    return model, spec, params, batch._replace(mask=mask)


@pytest.mark.parametrize("form", ["delta", "residual"])
def test_a_trained_head_has_the_gradient_of_float64(form):
    """The loss and the gradient of lm_head by hand, with the pre-trained head for the teacher."""
    parts = _parts("llama", form, "none")
    model, spec, params, batch = _with_changed(parts, ("lm_head",))
    loss = causal_lm.make_loss(model, spec, nlg_terms(TERMS), head_frozen=False)

    def of_kernel(kernel):
        base = update(params.base, {"lm_head": {"kernel": kernel}})
        return loss(params.replace(base=base), batch, None, WEIGHTS)[0]

    value, gradient = jax.jit(jax.value_and_grad(of_kernel))(params.base["lm_head"]["kernel"])

    def hidden_states(lora):
        states = model.apply(
            {"params": params.base, "lora": lora}, batch.input_ids, method="hidden_states"
        )
        return np.asarray(states, np.float64)

    hidden = hidden_states(adapters.student_lora(params.adapters, params.initial, spec))
    before = hidden_states(adapters.teacher_lora(params.initial, spec))
    logits = hidden @ np.asarray(params.base["lm_head"]["kernel"], np.float64)
    teacher = before @ np.asarray(params.pretrained["lm_head"]["kernel"], np.float64)
    mask = np.asarray(batch.mask)
    terms = {
        "consistency": reference.consistency(logits, teacher, mask, TERMS.consistency.temperature),
        "diversity": reference.diversity(logits, mask, TERMS.diversity.top_k),
        "svd": reference.svd(logits, mask, TERMS.svd.k, TERMS.svd.norm),
    }
    expected, slope = reference.cross_entropy(logits, np.asarray(batch.targets), mask)
    for name, (term, term_slope) in terms.items():
        expected += WEIGHTS[name] * term
        slope = slope + WEIGHTS[name] * term_slope
    expected_gradient = np.einsum("btd,btv->dv", hidden, slope)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    scale = np.abs(expected_gradient).max()
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5 * scale)
    assert terms["consistency"][0] > 1e-3


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 4, 1)])
@pytest.mark.parametrize("name", SIZES)
def test_a_trained_embedding_streams_as_from_whole_logits(name, sizes):
    """Of an untied model, whose head is frozen; also where student and teacher are divided."""
    kind = MODEL_TYPES[name]
    config = dataclasses.replace(kind.parse(SIZES[name]), tied=False)
    spec = AdapterSpec(4)
    model = kind.tasks["causal-lm"].module(config)
    base = models.init_params(model, jax.random.key(0))
    embedding = model.embedding_path[:-1]
    table = adapters.init_lora(base, [embedding], 4, jax.random.key(1))
    table = jax.tree.map(lambda leaf: leaf + 0.02, table)
    ids = jax.random.randint(jax.random.key(2), (8, 9), 0, 96)
    every_token = jnp.ones(ids.shape, bool)
    batch = Batch(ids, every_token, targets=jnp.roll(ids, -1, 1), mask=every_token)
    params = Params(adapters=table, base=base)
    final = ("model", "norm") if name == "llama" else ("transformer", "ln_f")
    parts = _with_changed((model, spec, params, batch), final)
    params = parts[2].replace(head_factor=head_factor(models.head(model, base)))
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])

    def value_and_gradient(head_frozen, mesh):
        loss = causal_lm.make_loss(
            model, spec, nlg_terms(TERMS), head_frozen=head_frozen, mesh=mesh
        )

        def of_trained(trained):
            changed = params.replace(
                adapters=trained["adapters"], base=update(params.base, trained["base"])
            )
            return loss(changed, parts[3], None, WEIGHTS)[0]

        trained = {"adapters": params.adapters, "base": select(params.base, [final])}
        return jax.jit(jax.value_and_grad(of_trained))(trained)

    value, gradient = value_and_gradient(True, mesh if mesh.size > 1 else None)
    expected, expected_gradient = value_and_gradient(False, None)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True)
    for ours, theirs in pairs:
        scale = float(jnp.abs(theirs).max())
        assert scale > 0
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * scale)


PACKED = [
    "llama",
    "mistral",
    "gemma2",
    "gemma3",
    "llama-longrope",
    "phi4-mini",
    "mixtral",
    "qwen3-window",
    "gpt2",
]


def _packed_case(name):
    """((model, spec, params), padded batch, packed batch), with the same texts in both batches."""
    described = SIZES["gpt2"] if name == "gpt2" else decoder_cases.CASES[name]
    kind = MODEL_TYPES[described.model_type]
    spec = AdapterSpec(4)
    model = kind.tasks["causal-lm"].module(kind.parse(described))
    base = models.init_params(model, jax.random.key(0))
    paths = adapters.match_targets("all-linear", base)
    start = adapters.init_pissa(base, paths, 4, key=jax.random.key(1))
    factor = None
    if model.config.final_softcap is None:
        factor = head_factor(models.head(model, base))
    params = Params(
        adapters=jax.tree.map(lambda leaf: leaf * 1.2, start),
        base=base,
        head_factor=factor,
        initial=start,
    )
    random = np.random.default_rng(0)
    lengths = random.integers(2, 16, 16)
    examples = data.Examples(
        random.integers(3, 60, lengths.sum()).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        pad_id=0,
        prompt_lengths=(random.random(16) * lengths).astype(np.int32),
    )
    padded = data.collate(examples, np.arange(16), [16])
    packed = data.PackedRows(1, 8, (32,), 1.0).collate(examples, np.arange(16))
    return (model, spec, params), padded, packed


@pytest.mark.parametrize("name", PACKED)
def test_packed_rows_give_the_same_loss_and_gradient(name):
    case, padded, packed = _packed_case(name)
    _compare_packed(case, padded, packed, TERMS, (1, 1, 1))


@pytest.mark.parametrize("version", PAPER)
@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)], ids=["data", "data, fsdp and tensor"])
def test_packed_rows_on_eight_devices(version, sizes):
    case, padded, packed = _packed_case("gemma2")
    _compare_packed(case, padded, packed, PAPER[version], sizes)


def _compare_packed(case, padded, packed, terms, sizes):
    separate, arguments = _program((*case, padded), terms, (1, 1, 1))
    true_value, true_gradient = separate(*arguments)
    program, arguments = _program((*case, packed), terms, sizes)
    value, gradient = program(*arguments)
    np.testing.assert_allclose(value, true_value, rtol=1e-5)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(true_gradient), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-4, atol=1e-4 * float(jnp.abs(theirs).max())
        )
