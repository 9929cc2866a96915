"""The table of starts: its names, its settings, and its columns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import AxisType

from balora_jax.adapters import STARTS, find_start
from balora_jax.config.adapter import START_SETTINGS

PARAMS = {
    "layers": {"q_proj": {"kernel": jnp.arange(3.0 * 12 * 10).reshape(3, 12, 10) % 7}},
    "out": {"kernel": jnp.arange(10.0 * 14).reshape(10, 14) % 5, "bias": jnp.zeros(14)},
}
PATHS = [("layers", "q_proj"), ("out",)]
SPELLINGS = [
    spelling
    for name, settings in START_SETTINGS.items()
    for spelling in (name, *(f"{name}_{setting}_2" for setting in settings))
]


def test_every_name_has_a_row():
    assert STARTS.keys() == START_SETTINGS.keys()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_start_has_the_same_signature(spelling):
    start, settings = find_start(spelling)
    if start.needs == "gradient":
        settings["gradient"] = {
            ("layers", "q_proj"): jax.random.normal(jax.random.key(1), (3, 12, 10)),
            ("out",): jax.random.normal(jax.random.key(2), (10, 14)),
        }
    tree = start.init(
        PARAMS,
        PATHS,
        2,
        scale=2.0,
        key=jax.random.key(0),
        mesh=jax.make_mesh((8,), ("all",), axis_types=(AxisType.Auto,)),
        **settings,
    )
    flat = traverse_util.flatten_dict(tree)
    shapes = {path: leaf.shape for path, leaf in flat.items()}
    assert shapes == {
        ("layers", "q_proj", "a"): (3, 12, 2),
        ("layers", "q_proj", "b"): (3, 2, 10),
        ("out", "a"): (10, 2),
        ("out", "b"): (2, 14),
    }
    assert all(leaf.dtype == jnp.float32 for leaf in flat.values())
    product = flat[("out", "a")] @ flat[("out", "b")]
    assert start.zero == (not np.any(product))


def test_settings_come_from_the_name():
    assert find_start("pissa_niter_16") == (STARTS["pissa"], {"niter": 16})
    assert find_start("lora_ga_niter_4") == (STARTS["lora_ga"], {"niter": 4})
    assert find_start("runs/mine/adapter") is None
