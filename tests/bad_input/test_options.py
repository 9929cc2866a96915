"""Options on the command line that cannot be used, above all every number at every silly size."""

import dataclasses
import re
import subprocess
import sys
import typing

import pytest

from balora_jax.config import RunConfig
from balora_jax.config.generate import GenerateOptions
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput

NUMBERS = ["0", "-1", "1" + "0" * 30, "nan", "inf", "-inf", "1e308", "1e400", "1" * 5000]
BASE = [
    "--model.source", "model", "--data.train", "train.jsonl", "--output.dir", "run",
    "--training.eval_every", "1", "--data.eval", "eval.jsonl",
]  # fmt: skip
# Where the smallest values have a meaning.
ZERO = frozenset(
    {
        "optimizer.warmup", "optimizer.final", "optimizer.weight_decay", "optimizer.b1",
        "optimizer.b2", "adapter.dropout", "training.seed", "training.eval_every",
    }
)  # fmt: skip
SHARES = ("weight", "final", "delay", "ramp", "warmup")
REMAINING = frozenset({"mesh.data", "mesh.fsdp", "mesh.tensor"})


def _number_options(section, prefix=""):
    """The options of a dataclass, and of those in it, whose values may be numbers."""
    found = []
    types = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        kind = types[field.name]
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(kind):
            found += _number_options(kind, f"{name}.")
        elif {int, float} & {kind, *typing.get_args(kind)}:
            found.append(name)
    return found


OPTIONS = _number_options(RunConfig)


def _is_accepted(option, number):
    section, _, name = option.rpartition(".")
    if number == "-1":
        return option in REMAINING or option == "training.seed"
    of_term = section.startswith("regularizers.") and name in SHARES
    return number == "0" and (option in ZERO or of_term)


def _arguments(option, number):
    length = [] if option in ("training.steps", "training.epochs") else ["--training.steps", "1"]
    rest = ["--mesh.data", "1"] if option in REMAINING else []
    return [*BASE, *length, *rest, f"--{option}={number}"]


def test_all_numbers_are_found():
    assert len(OPTIONS) > 40
    assert {"optimizer.learning_rate", "adapter.alpha", "data.labels"} <= set(OPTIONS)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:9])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_number_is_accepted_or_refused_by_name(option, number):
    if _is_accepted(option, number):
        read_config(_arguments(option, number))
        return
    with pytest.raises(BadInput) as refusal:
        read_config(_arguments(option, number))
    sentence = str(refusal.value)
    assert re.search(rf"^{re.escape(option)} is .*; accepted: .*", sentence), sentence
    assert len(sentence) < 500
    assert "Literal" not in sentence and "class" not in sentence


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:9])
@pytest.mark.parametrize("option", _number_options(GenerateOptions))
def test_a_number_of_generate(refused, tmp_path, option, number):
    if (option, number) in (("temperature", "0"), ("seed", "0"), ("seed", "-1")):
        return
    arguments = ["--run", tmp_path, "--prompt", "x", f"--{option}={number}"]
    sentence = refused(["generate", *arguments])
    assert re.search(rf"^balora: (--)?{option} is .*; accepted: ", sentence), sentence
    assert len(sentence) < 500


COMPARISONS = {
    "a rate 0": (["--learning_rates", "1e-3", "0"], r"--learning_rates .*is 0.*above 0, at most"),
    "a rate -1": (["--learning_rates=-1"], r"--learning_rates .*is -1.*above 0, at most"),
    "a rate nan": (["--learning_rates", "nan"], "learning_rates .*nan.*accepted: a number"),
    "a rate inf": (["--learning_rates", "inf"], "learning_rates .*inf.*accepted: a number"),
    "a rate 1e400": (["--learning_rates", "1e400"], "learning_rates .*accepted: a number"),
    "a rate of text": (["--learning_rates", "fast"], "learning_rates .*'fast'; accepted: a number"),
    "no rate": (["--learning_rates"], "--learning_rates has no value; accepted: at least one"),
    "no seed": (["--seeds"], "--seeds has no value; accepted: at least one"),
    "no method": (["--methods"], "--methods has no value; accepted: at least one"),
    "no out": (["--out"], "--out has no value; accepted: one"),
    "an empty seed": (["--seeds", ""], "seeds .*''; accepted: a whole number"),
    "a seed of text": (["--seeds", "one"], "seeds .*'one'; accepted: a whole number"),
    "half a seed": (["--seeds", "0.5"], "seeds .*'0.5'; accepted: a whole number"),
    "a seed nan": (["--seeds", "nan"], "seeds .*'nan'; accepted: a whole number"),
    "a huge seed": (["--seeds", "1" + "0" * 30], "--seeds: training.seed is .*; accepted: a whole"),
    "a seed twice": (["--seeds", "1", "1"], "--seeds has 1 twice; accepted: different"),
    "an unknown method": (["--methods", "dora"], "--methods has 'dora'; accepted: ba-lora, pissa"),
    "an empty method": (["--methods", ""], "--methods has ''; accepted: ba-lora, pissa"),
    "a method at nothing": (["--methods", "lora@"], "'lora@'.*is not a number; accepted"),
    "a method at text": (["--methods", "lora@fast"], "'lora@fast'.*is not a number; accepted"),
    "a method at 0": (["--methods", "lora", "pissa@0"], "'pissa@0'.*above 0, at most"),
    "a method at -1": (["--methods", "lora@-1"], "'lora@-1'.*above 0, at most"),
    "a method at nan": (["--methods", "lora@nan"], "'lora@nan'.*above 0, at most"),
    "a method at 1e400": (["--methods", "lora@1e400"], "'lora@1e400'.*above 0, at most"),
    "a method at twice": (["--methods", "lora@1@2"], "'lora@1@2'.*is not a number; accepted"),
    "a long method": (["--methods", "m" * 5000], "--methods has 'm+"),
    "methods of one folder": (
        ["--methods", "lora@0.001", "lora@0.0010000001"], "'lora@0.001' and 'lora@0.0010000001'; a"
    ),
    "a method twice": (["--methods", "lora", "lora"], "'lora' and 'lora'; accepted: different"),
    "rates of one folder": (
        ["--learning_rates", "1e-3", "0.0010000001"], "rates has 0.001 twice; accepted: different"
    ),
    "an unknown option": (["--seedz", "1"], "there is no option seedz; accepted"),
}  # fmt: skip


@pytest.mark.parametrize("more, match", COMPARISONS.values(), ids=COMPARISONS)
def test_a_comparison_is_refused(refused, run_arguments, tmp_path, more, match):
    shared = run_arguments(tmp_path / "unused", "--adapter.init", "null")
    sentence = refused(["compare", *shared, "--out", tmp_path / "out", *more])
    assert re.search(match, sentence), sentence


RUN = [*BASE, "--training.steps", "1"]
# Twelve lists, of which each has the one before it nine times.
BOMB = "[&a [x, y]" + "".join(
    f", &{chr(98 + depth)} [" + ", ".join(9 * [f"*{chr(97 + depth)}"]) + "]" for depth in range(12)
) + "]"  # fmt: skip
TRAINING = {
    "no option at all": ([], "model.source, output.dir must be given; accepted"),
    "an argument without a name": ([*RUN, "spare"], "there is no argument 'spare'; accepted: opt"),
    "two of them": ([*RUN, "a", "b"], "there is no argument 'a'; accepted: options"),
    "a lone minus": ([*RUN, "-"], "there is no argument '-'; accepted: options"),
    "a short option": ([*RUN, "-x"], "there is no argument '-x'; accepted: options"),
    "nothing but minuses": ([*RUN, "--", "x"], "there is no argument 'x'; accepted: options"),
    "a slip": ([*RUN, "--adapter.rnk", "3"], "no option adapter.rnk; accepted: adapter.rank"),
    "no section": ([*RUN, "--rank", "3"], "there is no option rank; accepted: .*adapter.rank"),
    "a section": ([*RUN, "--model", "x"], "no option model; accepted: model.source, model.task"),
    "no value": ([*RUN, "--adapter.rank"], "--adapter.rank has no value; accepted: one"),
    "an empty number": ([*RUN, "--adapter.rank", ""], "rank is ''; accepted: a whole number"),
    "text for a number": ([*RUN, "--adapter.rank", "x"], "rank is 'x'; accepted: a whole number"),
    "a list for a number": ([*RUN, "--adapter.rank", "[1]"], "rank is '.1.'; accepted: a whole"),
    "true for a number": ([*RUN, "--adapter.rank", "true"], "rank is true; accepted: a whole"),
    "half a rank": ([*RUN, "--adapter.rank", "4.5"], "rank is '4.5'; accepted: a whole number"),
    "null for a rank": ([*RUN, "--adapter.rank", "null"], "rank is .*; accepted: a whole number"),
    "null for a rate": (
        [*RUN, "--optimizer.learning_rate", "null"], "learning_rate is .*; accepted: a number"
    ),
    "true for a rate": (
        [*RUN, "--optimizer.learning_rate", "true"], "learning_rate is .*; accepted: a number"
    ),
    "a time for a number": ([*RUN, "--training.seed", "8:30"], "'8:30'; accepted: a .*number"),
    "digits in groups": ([*RUN, "--training.seed", "1_0"], "'1_0'; accepted: a number in digits"),
    "a rate in groups": ([*RUN, "--optimizer.learning_rate=1_0"], "'1_0'; accepted: a number in"),
    "a rate of steps": ([*RUN, "--optimizer.learning_rate", "1/2"], "'1/2'; accepted: a number"),
    "a method": ([*RUN, "--method", "dora"], "method is 'dora'; accepted: ba-lora, pissa, lora o"),
    "no method": ([*RUN, "--method", ""], "method is ''; accepted: ba-lora, pissa, lora or full"),
    "null for a method": ([*RUN, "--method", "null"], "method is .*; accepted: ba-lora, pissa"),
    "a dtype": ([*RUN, "--model.dtype", "int8"], "is 'int8'; accepted: float32 or bfloat16"),
    "a task": ([*RUN, "--model.task", "x"], "'x'; accepted: causal-lm, seq2seq-lm or sequence-"),
    "a schedule": (
        [*RUN, "--regularizers.svd.schedule", "x"],
        "svd.schedule is 'x'; accepted: constant, cosine, two-phase, linear or quadratic",
    ),
    "probes": ([*RUN, "--data.probes", "x"], "probes is 'x'; accepted: (null|tiny-world) or"),
    "a bomb for a number": (
        [*RUN, "--adapter.rank", BOMB], r"adapter.rank is '\[&a.*has an alias .\*a.; accepted: val"
    ),
    "a bomb for a text": ([*RUN, f"--model.source={BOMB}"], "model.source is .*alias .*accepted"),
    "2 for a truth": ([*RUN, "--output.merge", "2"], "merge is '?2'?; accepted: true or false"),
    "text for a truth": ([*RUN, "--output.merge", "x"], "merge is 'x'; accepted: true or false"),
    "null for a truth": ([*RUN, "--output.merge", "null"], "merge is .*; accepted: true or false"),
    "a list of numbers": ([*RUN, "--data.labels", "[1, 2]"], "labels is .*; accepted: .*text"),
    "one label": ([*RUN, "--data.labels", "[a]"], r"labels is \['a'\]; accepted: null, two or m"),
    "labels in labels": ([*RUN, "--data.labels", "[[a], b]"], "labels is .*; accepted: .*text"),
    "one score": ([*RUN, "--data.scores", "[1]"], r"scores is \[1.0\]; accepted: null, or the"),
    "scores of text": ([*RUN, "--data.scores", "[a, b]"], "scores is .*; accepted: a list"),
    "scores nan": ([*RUN, "--data.scores", "[.nan, 1]"], "scores is .*; accepted: null, or the"),
    "scores inf": ([*RUN, "--data.scores", "[0, .inf]"], "scores is .*; accepted: null, or the"),
    "scores 1e308": ([*RUN, "--data.scores", "[0, 1e308]"], "scores is .*; accepted: null, or"),
    "scores 1e-300 apart": ([*RUN, "--data.scores", "[0, 1e-300]"], "scores is .*; accepted: nu"),
    "scores of 5000 digits": (
        [*RUN, f"--data.scores=[0, {'1' * 5000}]"], "scores is .*; accepted"
    ),
    "fields of a list": ([*RUN, "--data.fields", "[a]"], "fields is .*; accepted: a mapping"),
    "fields of numbers": ([*RUN, "--data.fields", "{a: 1}"], "fields.* is .*; accepted: .*text"),
    "no target": ([*RUN, "--adapter.targets", "[]"], r"targets is \[\]; accepted: at least one"),
    "an empty target": ([*RUN, "--adapter.targets", ""], "targets is ''; accepted: at least one"),
    "no eval": ([*RUN, "--data.eval", "[]"], r"data.eval is \[\]; accepted: null, a set, or a"),
    "a yaml anchor": ([*RUN, "--data.labels", "[&a [x], *a]"], "data.labels is .*; accepted"),
    "an alias bomb": ([*RUN, "--data.labels", BOMB], "data.labels is .*an alias .*; accepted"),
    "a deep list": ([*RUN, "--data.labels", "[" * 20000], "data.labels is .*; accepted"),
    "a deep whole list": ([*RUN, "--data.labels", "[" * 900 + "]" * 900], "data.labels is .*; ac"),
    "deep flows": ([*RUN, "--data.fields", "{a: " * 5000 + "}" * 5000], "data.fields is .*; acc"),
    "a Python tag": ([*RUN, "--data.labels", "!!python/name:os.system"], "data.labels is .*; acc"),
    "steps and epochs": (
        [*RUN, "--training.epochs", "1"], "exactly one of the two"
    ),
    "neither": (BASE, "training.steps and training.epochs is .*accepted: exactly one of the two"),
    "print_config of nothing": ([*RUN, "--print_config=x"], "--print_config; accepted"),
    "a number in the name": ([*RUN, "--data.train.0", "x"], "source 1 of data.train has the key 0"),
    "a source's weight below 0": (
        [*RUN, "--data.train", "[{source: a.jsonl, weight: -1}]"], "weight is -1; accepted: a"
    ),
    "a mesh of two rests": (
        [*RUN, "--mesh.data", "-1", "--mesh.fsdp", "-1"], "-1 on one axis"
    ),
    "no plugin": ([*RUN, "--plugin"], "--plugin names no file; accepted: --plugin FILE.py"),
}  # fmt: skip


@pytest.mark.parametrize("arguments, match", TRAINING.values(), ids=TRAINING)
def test_a_training_is_refused(refused, arguments, match):
    sentence = refused(["train", *arguments])
    assert re.search(match, sentence), sentence
    assert "Literal" not in sentence and "<class" not in sentence and "Union" not in sentence


COMMANDS = {
    "a command": (["trian"], "there is no command 'trian'; accepted: train, quickstart"),
    "an empty command": ([""], "there is no command ''; accepted: train"),
    "a long command": (["x" * 5000], "there is no command 'x+'; accepted: train"),
    "an option for a command": (["--model.source", "x"], "no command '--model.source'; accepted"),
    "doctor with options": (["doctor", "--now"], "there is no option now; accepted: --help"),
    "export of nothing": (["export"], "--run must be given"),
    "merge of nothing": (["merge", "--out", "x"], "--run must be given"),
    "an option of export": (["export", "--runn", "x"], "there is no option runn; accepted: run"),
    "generate of nothing": (["generate"], "exactly one of --run DIR and --model SOURCE"),
    "both models": (
        ["generate", "--run", "a", "--model", "b", "--prompt", "c"], "one of --run DIR and --model"
    ),
    "both prompts": (
        ["generate", "--model", "b", "--prompt", "c", "--prompts", "d"], "--prompt TEXT and --prom"
    ),
    "compare without a run": (["generate", "--model", "b", "--prompt", "c", "--compare"], "--run"),
    "stops of a text": (
        ["generate", "--model", "b", "--prompt", "c", "--stop", "x"], "stop is 'x'; accepted: a l"
    ),
    "an empty stop": (
        ["generate", "--model", "b", "--prompt", "c", "--stop", '[""]'], "--stop has an empty text"
    ),
    "an empty template": (
        ["generate", "--model", "b", "--prompt", "c", "--template", ""], "--template is empty; acc"
    ),
    "a checkpoint of a model": (
        ["generate", "--model", "b", "--prompt", "c", "--checkpoint", "7"], "'?7'? is of a run; acc"
    ),
    "comparing nothing": (["compare"], "--out must be given"),
}  # fmt: skip


@pytest.mark.parametrize("arguments, match", COMMANDS.values(), ids=COMMANDS)
def test_a_command_is_refused(refused, arguments, match):
    sentence = refused(arguments)
    assert re.search(match, sentence), sentence


@pytest.mark.parametrize("name", ["comparison.json", "comparison.md"])
def test_a_folder_in_place_of_a_table_is_found_before_training(
    refused, run_arguments, tmp_path, name
):
    (tmp_path / "out" / name).mkdir(parents=True)
    shared = run_arguments(tmp_path / "unused", "--adapter.init", "null")
    sentence = refused(["compare", *shared, "--out", tmp_path / "out"])
    assert f"{name} is no file; accepted" in sentence


def test_other_processes_that_cannot_be_found(refused, run_arguments, tmp_path):
    sentence = refused(["train", *run_arguments(tmp_path / "run", "--mesh.distributed", "true")])
    assert "mesh.distributed is true" in sentence and "accepted: a TPU pod slice" in sentence


def test_numbers_are_refused_before_jax_is_imported():
    code = (
        "import sys\n"
        "from balora_jax.cli import main\n"
        "for command in ('train --training.steps=x',\n"
        "                'generate --model m --prompt x --top_p=nan',\n"
        "                'compare --out /tmp --seeds=nan', 'export --run /nowhere'):\n"
        "    try:\n"
        "        main(command.split())\n"
        "    except SystemExit as error:\n"
        "        assert error.code == 2\n"
        "assert 'jax' not in sys.modules\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("balora: ") == 4
