"""The division of a batch's counted tokens into chunks."""

import jax.numpy as jnp
import numpy as np
import pytest

from balora_jax.objective.chunks import Chunks


@pytest.mark.parametrize(("counted", "chunks"), [(0, 0), (1, 1), (8, 1), (9, 2), (30, 4)])
def test_only_chunks_of_counted_tokens_are_run(counted, chunks):
    mask = np.zeros((2, 30), bool)
    mask[1, np.random.default_rng(0).permutation(30)[:counted]] = True
    plan = Chunks.of(jnp.asarray(mask), 8)
    seen = plan.loop(
        lambda carry, start, counted_here: (carry[0] + 1, carry[1] + counted_here.sum()), (0, 0)
    )
    assert seen[0] == plan.number == chunks and seen[1] == counted
    states = jnp.arange(60.0).reshape(2, 30, 1)
    np.testing.assert_array_equal(plan.restore(plan.arrange(states)), states)
