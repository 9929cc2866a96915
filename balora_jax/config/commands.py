"""The options of the commands beside train: compare, generate, export, merge and doctor."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from jsonargparse import ArgumentParser

from balora_jax.config.audit import AuditOptions
from balora_jax.config.check import require
from balora_jax.config.convert import ConvertOptions
from balora_jax.config.evaluate import EvaluateOptions
from balora_jax.config.export import ExportOptions, MergeOptions
from balora_jax.config.generate import GenerateOptions
from balora_jax.config.parse import (
    VALUES,
    add_options,
    build,
    parse,
    read_config,
    read_data_config,
    split,
)
from balora_jax.config.paths import check_output
from balora_jax.config.plan import OWN, PlanOptions
from balora_jax.config.predict import PredictOptions
from balora_jax.config.push import PushOptions
from balora_jax.config.training import OptimizerConfig, TrainingConfig
from balora_jax.errors import BadInput

Options = TypeVar("Options")
LONGEST_METHOD = 100


@dataclass(frozen=True)
class CompareOptions:
    """The options of `balora compare`.

    Attributes:
      out: a folder for the runs and the table.
      methods: each METHOD or METHOD@RATE.
      seeds: training.seed of each method's runs.
      learning_rates: the rates to search; empty for the configured one.
      run: the arguments of `balora train` that all runs share.
    """

    out: str
    methods: list[str]
    seeds: list[int]
    learning_rates: list[float]
    run: list[str]


def make_parser(command: str, description: str) -> ArgumentParser:
    """Make a parser without options.

    Args:
      command: the command's name.
      description: its line in the help.
    """
    return ArgumentParser(
        prog=f"balora {command}",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        parser_mode=VALUES,
    )


def compare_options(arguments: Sequence[str], description: str) -> CompareOptions:
    """Parse the arguments of `balora compare`.

    Args:
      arguments: the command line, without the command's name.
      description: the command's line in the help.

    Raises:
      BadInput: an option of the comparison itself cannot be used.
    """
    parser = make_parser("compare", description)
    parser.add_argument(
        "--out", type=str, required=True, help="a folder for the runs and the table"
    )
    parser.add_argument(
        "--methods",
        type=str,
        nargs="+",
        default=["lora", "pissa", "ba-lora"],
        help="each METHOD or METHOD@RATE",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        help="training.seed of each method's runs",
    )
    parser.add_argument(
        "--learning_rates",
        type=float,
        nargs="+",
        default=[],
        help="the best of them for each method",
    )
    names = ("out", "methods", "seeds", "learning_rates", "help")
    compare_arguments, run = split(arguments, names)
    options = CompareOptions(**vars(parse(parser, compare_arguments)), run=run)
    check_output("--out", options.out)
    for seed in options.seeds:
        _check_seed(seed)
    for rate in options.learning_rates:
        _check_rate("--learning_rates", str(rate), rate)
    for method in options.methods:
        _check_fixed_rate(method)
    # What no run can use is found before the first of them begins.
    config = read_config([*run, "--output.dir", options.out])
    accepted = "nothing in a comparison, whose runs would replace each other; balora push"
    require(config.output.push_to is None, "output.push_to", config.output.push_to, accepted)
    return options


def generate_options(arguments: Sequence[str], description: str) -> GenerateOptions:
    """Parse the arguments of `balora generate`.

    Args:
      arguments: the command line, without the command's name.
      description: the command's line in the help.

    Raises:
      BadInput: an option cannot be used, or lacks another one.
    """
    return _parsed("generate", GenerateOptions, arguments, description)


def predict_options(arguments: Sequence[str], description: str) -> PredictOptions:
    """Parse the arguments of `balora predict`; names of options may have hyphens.

    Args:
      arguments: the command line, without the command's name.
      description: the command's line in the help.

    Raises:
      BadInput: an option is missing or cannot be used.
    """
    return _parsed("predict", PredictOptions, _with_underscores(arguments), description)


def plan_options(arguments: Sequence[str], description: str) -> PlanOptions:
    """Parse the arguments of `balora plan`: its own options, and those of a run.

    Args:
      arguments: the command line, without the command's name.
      description: the command's line in the help.

    Raises:
      BadInput: an option cannot be used.
    """
    own, run = split(arguments, OWN)
    parser = make_parser("plan", f"{description}; further options are those of balora train")
    parser.add_argument("--topology", type=str, help="such as v5e:4x4, v5p:4x4x4 or h100:8")
    parser.add_argument("--devices", type=int, help="so many CPU devices, without --topology")
    parser.add_argument("--json", type=bool, default=False, help="print one JSON object")
    given = parse(parser, own)
    return PlanOptions(run=read_data_config(run, "plan"), **vars(given))


def push_options(arguments: Sequence[str], description: str) -> PushOptions:
    """Parse the arguments of `balora push`.

    Args:
      arguments: the command line, without the command's name.
      description: the command's line in the help.

    Raises:
      BadInput: an option is missing or cannot be used.
    """
    return _parsed("push", PushOptions, arguments, description)


def convert_options(arguments: Sequence[str], description: str) -> ConvertOptions:
    """Parse the arguments of `balora convert`.

    Args:
      arguments: the command line, without the command's name.
      description: the command's line in the help.

    Raises:
      BadInput: an option is missing or cannot be used.
    """
    parser = make_parser("convert", description)
    parser.add_argument(
        "source",
        type=str,
        help="a Hugging Face folder with pytorch_model.bin, also in parts, or a file of weights in "
        "one",
    )
    parser.add_argument("--out", type=str, required=True, help="the new folder")
    return ConvertOptions(**vars(parse(parser, arguments)))


def evaluate_options(arguments: Sequence[str], description: str) -> EvaluateOptions:
    """Parse the arguments of `balora evaluate`; names of options may have hyphens.

    Args:
      arguments: the command line, without the command's name.
      description: the command's line in the help.

    Raises:
      BadInput: an option cannot be used, or lacks another one.
    """
    return _parsed("evaluate", EvaluateOptions, _with_underscores(arguments), description)


def audit_options(arguments: Sequence[str], description: str) -> AuditOptions:
    """Parse the arguments of `balora audit`; --run may be given several times.

    Args:
      arguments: the command line, without the command's name.
      description: the command's line in the help.

    Raises:
      BadInput: an option cannot be used.
    """
    named, rest = split(_with_underscores(arguments), ("run",))
    runs = []
    for argument in named:
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            runs.append(argument)
        elif equals:
            runs.append(value)
    return _parsed("audit", AuditOptions, [f"--run={json.dumps(runs)}", *rest], description)


def _parsed(
    command: str, options: type[Options], arguments: Sequence[str], description: str
) -> Options:
    """Parse the arguments of a command into its dataclass of options."""
    parser = make_parser(command, description)
    add_options(parser, options)
    return build(options, parse(parser, arguments))


def _with_underscores(arguments: Sequence[str]) -> list[str]:
    """Write --data-dir X as --data_dir X."""
    renamed = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = f"--{name[2:].replace('-', '_')}"
        renamed.append(name + equals + value)
    return renamed


def export_options(arguments: Sequence[str], description: str) -> ExportOptions:
    """Parse the arguments of `balora export`.

    Args:
      arguments: the command line, without the command's name.
      description: the command's line in the help.

    Raises:
      BadInput: an option is missing or cannot be used.
    """
    return _parsed("export", ExportOptions, arguments, description)


def merge_options(arguments: Sequence[str], description: str) -> MergeOptions:
    """Parse the arguments of `balora merge`.

    Args:
      arguments: the command line, without the command's name.
      description: the command's line in the help.

    Raises:
      BadInput: an option is missing or cannot be used.
    """
    return _parsed("merge", MergeOptions, arguments, description)


def _check_seed(seed: int) -> None:
    try:
        TrainingConfig(steps=1, seed=seed)
    except BadInput as error:
        raise BadInput(f"--seeds: {error}") from error


def _check_rate(option: str, text: str, rate: float) -> None:
    """Check a learning rate as that of a run, before the first of many runs begins."""
    try:
        OptimizerConfig(learning_rate=rate)
    except BadInput as error:
        raise BadInput(f"{option} has {text[:100]!r}: {error}") from error


def _check_fixed_rate(method: str) -> None:
    """Check the rate in METHOD@RATE; the comparison refuses other methods and what is no number."""
    if len(method) > LONGEST_METHOD:
        raise BadInput(
            f"--methods has {method[:100]!r} ...; accepted: methods, each alone or as METHOD@RATE"
        )
    _, _, rate = method.partition("@")
    try:
        number = float(rate)
    except ValueError:
        return
    _check_rate("--methods", method, number)
