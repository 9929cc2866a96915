"""Every file in configs/ is a valid configuration and says how to run it."""

import pathlib

import pytest

from balora_jax.config.parse import read_config

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_parses_and_has_its_header(path):
    read_config(["--config", str(path)])
    header = "".join(
        line for line in path.read_text().splitlines(keepends=True) if line.startswith("#")
    )
    assert f"python train.py --config configs/{path.name}" in header
    assert all(word in header for word in ("Command:", "Hardware:", "Time:", "Expect:"))


def test_command_line_overrides_the_file():
    config = read_config(
        ["--config", str(CONFIGS[0]), "--adapter.rank", "3", "--data.fields.response", "text"]
    )
    assert config.adapter.rank == 3 and config.data.fields["response"] == "text"


def test_the_two_versions_of_the_paper_differ_as_stated():
    old, new = (
        read_config(["--config", str(CONFIGS[0].parent / f"llama2_7b_metamath{tail}.yaml")])
        for tail in ("_2024", "")
    )
    assert (new.regularizers.svd.norm, old.regularizers.svd.norm) == ("frobenius", "nuclear")
    assert (new.regularizers.diversity.top_k, old.regularizers.diversity.top_k) == (20, None)
    assert new.regularizers.consistency.temperature == 2
    assert old.regularizers.consistency.temperature == 1
