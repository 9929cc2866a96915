"""Names of adapter starts, and the starts that each method accepts."""

import pytest

from balora_jax.config import (
    AdapterConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    OutputConfig,
    RunConfig,
    TrainingConfig,
)
from balora_jax.config.adapter import parse_start
from balora_jax.errors import BadInput


@pytest.mark.parametrize(
    "init, parsed",
    [
        ("lora", ("lora", {})),
        ("pissa", ("pissa", {})),
        ("pissa_niter_16", ("pissa", {"niter": 16})),
        ("pissa_niter_0", ("pissa", {"niter": 0})),
        ("lora_ga", ("lora_ga", {})),
        ("lora_ga_niter_4", ("lora_ga", {"niter": 4})),
        ("lora_niter_4", None),
        ("pissa_niter_", None),
        ("pissa_niter_-1", None),
        ("pissa_niter_4_niter_5", None),
        ("pissa16", None),
        ("pissa_niter_16\n", None),
        ("./pissa", None),
        ("", None),
    ],
)
def test_parse_start(init, parsed):
    assert parse_start(init) == parsed


def make_config(method, init):
    return RunConfig(
        model=ModelConfig(source="model"),
        data=DataConfig(train="train.jsonl"),
        output=OutputConfig(dir="run"),
        training=TrainingConfig(steps=1),
        method=method,
        adapter=AdapterConfig(init=init),
    )


@pytest.mark.parametrize("method", ["ba-lora", "pissa", "lora", "full"])
@pytest.mark.parametrize("init", ["lora", "pissa", "pissa_niter_4", "lora_ga", "a/folder", None])
def test_a_start_of_another_method_needs_ba_lora(method, init):
    is_of_method = parse_start(init or "") is None or init.split("_niter")[0] == method
    if is_of_method or method in ("ba-lora", "full"):
        expected = init or ("lora" if method == "lora" else "pissa_niter_16")
        assert make_config(method, init).adapter_init == expected
    else:
        with pytest.raises(BadInput, match=f"adapter.init is '{init}' under method {method}"):
            make_config(method, init)


@pytest.mark.parametrize(
    "method, init, accepted",
    [
        ("lora", "pissa_niter_4", "lora, or method pissa or ba-lora"),
        ("pissa", "lora", "pissa, pissa_niter_N, or method lora"),
        ("lora", "lora_ga", "lora, or method ba-lora"),
        ("pissa", "lora_ga_niter_2", "pissa, pissa_niter_N, or method ba-lora"),
    ],
)
def test_the_message_names_the_accepted_starts(method, init, accepted):
    with pytest.raises(BadInput) as error:
        make_config(method, init)
    sentence = f"adapter.init is '{init}' under method {method}; accepted: {accepted}"
    assert str(error.value) == sentence


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("inf"), float("nan")])
def test_loraplus_ratio(ratio):
    with pytest.raises(BadInput, match=r"optimizer\.loraplus_lr_ratio is .*; accepted: a number"):
        OptimizerConfig(loraplus_lr_ratio=ratio)
