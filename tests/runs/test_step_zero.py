"""Before the first update the adapted model equals the pre-trained one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax import adapters, load_pretrained
from balora_jax.adapters import AdapterSpec
from balora_jax.regularizers import nlg

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _logits(folder, rank, form, niter, alpha):
    """The logits of the base, and of the student and the teacher at step 0."""
    model, params = load_pretrained(folder)
    ids = jax.random.randint(jax.random.key(0), (2, 24), 3, model.config.vocab_size)
    spec = AdapterSpec(rank, alpha=alpha, form=form)
    paths = adapters.match_targets(TARGETS, params)
    start = adapters.init_pissa(
        params, paths, rank, scale=spec.scale, niter=niter, key=jax.random.key(1)
    )
    base = adapters.residual(params, start, spec) if form == "residual" else params
    student = adapters.student_lora(start, start, spec)
    teacher = adapters.teacher_lora(start, spec)
    apply = jax.jit(lambda base, lora: model.apply({"params": base, "lora": lora}, ids))
    return apply(params, {}), apply(base, student), apply(base, teacher)


@pytest.mark.parametrize("form", ["delta", "residual"])
@pytest.mark.parametrize("niter, alpha", [(None, None), (4, 6.0)])
@pytest.mark.parametrize("name", ["tiny", "stories260k"])
def test_student_and_teacher_have_the_logits_of_the_base(request, name, form, niter, alpha):
    fixture = "tiny_llama" if name == "tiny" else "real_model"
    folder = request.getfixturevalue(fixture)
    if fixture == "real_model":
        folder = folder(name)
    base, student, teacher = (np.asarray(x) for x in _logits(folder, 8, form, niter, alpha))
    largest = np.abs(base).max()
    assert np.abs(student - base).max() <= 1e-5 * largest
    assert np.abs(teacher - base).max() <= 1e-5 * largest
    kl = nlg.consistency(student, teacher, jnp.ones(student.shape[:2], bool), temperature=2.0)
    assert 0 <= kl < 1e-6
    if form == "delta":
        np.testing.assert_array_equal(student, base)
