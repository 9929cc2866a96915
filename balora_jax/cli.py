"""The command line: its commands, and what they need before jax is loaded."""

import contextlib
import importlib
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from balora_jax.ends import flush_output, print_unraisable, run_to_its_end
from balora_jax.errors import BadInput


class Command(NamedTuple):
    """A command of the command line.

    Attributes:
      function: runs the command, given the arguments after its name.
      help: its line in the help, with the main options.
    """

    function: Callable[[Sequence[str]], None]
    help: str


# Each command imports its modules when it runs, so that help and errors need not wait for jax, and
# Ctrl-C finds the process in `main`.
def train(arguments: Sequence[str]) -> None:
    """Run `balora train`."""
    _train(arguments, "train")


def _train(arguments: Sequence[str], command: str) -> None:
    """Train, under a command's name."""
    from balora_jax.config.parse import config_files, read_config
    from balora_jax.config.paths import check_output_of_run

    config = read_config(arguments, command)
    check_output_of_run(config.output.dir)
    if config.evaluation.tasks:
        # Libraries draw bars of their own, which they decide when they are imported.
        os.environ.setdefault("TQDM_DISABLE", "1")
    elif not config.plugin_files:
        _leave_torch_out()
    from balora_jax.runs.finetune import finetune
    from balora_jax.training.interrupt import stopped_code
    from balora_jax.training.run_folder import check_config_file

    if config.output.resume:
        for file in config_files(arguments):
            check_config_file(file, config.output.dir)
    if finetune(config) is None:
        # It can be resumed, but it is not done: what comes next in a script must not begin.
        flush_output()
        sys.exit(stopped_code())


def _leave_torch_out() -> None:
    """Import what would import PyTorch for nothing, which takes seconds, as if it were not there.

    lm-eval's tasks and plugins may need both, and have them.
    """
    if "torch" in sys.modules or "transformers" in sys.modules:
        return
    # Python's own sign of a module that is not there.
    sys.modules["torch"] = None
    try:
        importlib.import_module("tensorboardX")
        from transformers.utils import is_torch_available

        # transformers remembers its first answer.
        is_torch_available()
    finally:
        del sys.modules["torch"]


def quickstart(arguments: Sequence[str]) -> None:
    """Run `balora quickstart`: train on the tiny model and data that come with the package."""
    from balora_jax.evaluation.tiny_world import embedded

    _train([*embedded.quickstart(), *arguments], "quickstart")


def compare(arguments: Sequence[str]) -> None:
    """Run `balora compare`."""
    from balora_jax.config.commands import compare_options

    options = compare_options(arguments, COMMANDS["compare"].help)
    from balora_jax.runs.compare import compare as compare_methods

    path = compare_methods(
        options.out, options.methods, options.seeds, options.learning_rates, options.run
    )
    print(path)


def export(arguments: Sequence[str]) -> None:
    """Run `balora export`."""
    from balora_jax.config.commands import export_options

    options = export_options(arguments, COMMANDS["export"].help)
    from balora_jax.runs.export import export_run
    from balora_jax.runs.meeting import meeting

    with meeting(options), _copied(options.run) as as_named:
        print(as_named(export_run(options)))


def merge(arguments: Sequence[str]) -> None:
    """Run `balora merge`."""
    from balora_jax.config.commands import merge_options

    options = merge_options(arguments, COMMANDS["merge"].help)
    from balora_jax.runs.export import merge_run
    from balora_jax.runs.meeting import meeting

    with meeting(options), _copied(options.run) as as_named:
        print(as_named(merge_run(options)))


def convert(arguments: Sequence[str]) -> None:
    """Run `balora convert`."""
    from balora_jax.config.commands import convert_options

    options = convert_options(arguments, COMMANDS["convert"].help)
    from balora_jax.runs.convert import convert as convert_weights

    print(convert_weights(options))


def push(arguments: Sequence[str]) -> None:
    """Run `balora push`."""
    from balora_jax.config.commands import push_options

    options = push_options(arguments, COMMANDS["push"].help)
    from balora_jax.runs.push import push_folder

    with _copied(options.run):
        print(push_folder(options))


def generate(arguments: Sequence[str]) -> None:
    """Run `balora generate`."""
    from balora_jax.config.commands import generate_options

    options = generate_options(arguments, "Continue prompts.")
    from balora_jax.runs.generate import generate_texts
    from balora_jax.runs.meeting import meeting

    with meeting(options), _kept_programs(), _copied(options.run):
        generate_texts(options)


def show_data(arguments: Sequence[str]) -> None:
    """Run `balora data`."""
    from balora_jax.config.parse import read_data_config

    config = read_data_config(arguments)
    from balora_jax.runs.show_data import show_data as show_examples

    show_examples(config)


def plan(arguments: Sequence[str]) -> None:
    """Run `balora plan`."""
    from balora_jax.config.commands import plan_options

    options = plan_options(arguments, COMMANDS["plan"].help)
    from balora_jax.runs.plan.command import plan as plan_run

    plan_run(options)


def predict(arguments: Sequence[str]) -> None:
    """Run `balora predict`."""
    from balora_jax.config.commands import predict_options

    options = predict_options(arguments, COMMANDS["predict"].help)
    from balora_jax.runs.meeting import meeting
    from balora_jax.runs.predict import predict as predict_rows

    with meeting(options), _kept_programs(), _copied(options.run):
        print(predict_rows(options))


def evaluate(arguments: Sequence[str]) -> None:
    """Run `balora evaluate`."""
    from balora_jax.config.commands import evaluate_options

    options = evaluate_options(arguments, COMMANDS["evaluate"].help)
    # Libraries draw bars of their own, which they decide when they are imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from balora_jax.runs.evaluate.command import evaluate as evaluate_tasks
    from balora_jax.runs.meeting import meeting

    with meeting(options), _kept_programs(), _copied(options.run) as as_named:
        print(as_named(evaluate_tasks(options)))


def audit(arguments: Sequence[str]) -> None:
    """Run `balora audit`."""
    from balora_jax.config.commands import audit_options

    options = audit_options(arguments, COMMANDS["audit"].help)
    from balora_jax.runs.audit.command import audit as audit_runs
    from balora_jax.runs.meeting import meeting

    with meeting(options), _kept_programs(), _copied(*options.run) as as_named:
        print(as_named(audit_runs(options)))


def _kept_programs() -> contextlib.AbstractContextManager[None]:
    """Read the programs that earlier commands compiled, and keep new ones, as a run does."""
    from balora_jax.runs.compiled_programs import compiled_programs

    return compiled_programs(None, lambda sentence: print(f"note: {sentence}", file=sys.stderr))


@contextlib.contextmanager
def _copied(*runs: str | None) -> Iterator[Callable[[pathlib.Path], str]]:
    """Copy runs in buckets to this machine; yields how a path in one is named."""
    from balora_jax.runs.copies import reading
    from balora_jax.training.bucket import as_named

    with reading(*runs):
        yield as_named


def doctor(arguments: Sequence[str]) -> None:
    """Run `balora doctor`."""
    from balora_jax.config.commands import make_parser
    from balora_jax.config.parse import parse

    parse(make_parser("doctor", COMMANDS["doctor"].help), arguments)
    from balora_jax.runs.doctor import diagnose

    diagnose()


COMMANDS = {
    "train": Command(
        train, "fine-tune a model, or resume a run (--config FILE [--section.key value ...])"
    ),
    "quickstart": Command(
        quickstart,
        "fine-tune the embedded tiny model, with no network, "
        "and measure its planted defects before and after",
    ),
    "data": Command(
        show_data,
        "show a run's data as the model will see it: counts, lengths, ten examples "
        "(train's options)",
    ),
    "plan": Command(
        plan,
        "show what a run needs on devices that need not be here: memory, time, communication "
        "([--topology v5e:4x4 | --devices N] [--json], and train's)",
    ),
    "compare": Command(
        compare,
        "run methods side by side "
        "(--out DIR [--methods M ...] [--seeds N ...] [--learning_rates R ...], and train's)",
    ),
    "generate": Command(
        generate,
        "continue prompts (--run DIR or --model SOURCE, --prompt TEXT or --prompts FILE, "
        "--compare)",
    ),
    "predict": Command(
        predict,
        "answer the rows of a file: classes with probabilities, scores or text "
        "(--run DIR --data FILE --out FILE)",
    ),
    "evaluate": Command(
        evaluate,
        "ask benchmarks and measures of bias "
        "(--run DIR [--baseline] or --model SOURCE, --tasks NAME,NAME [--data-dir DIR])",
    ),
    "audit": Command(
        audit,
        "show what fine-tuning changed, beside the base, on one page "
        "(--run DIR [--run DIR2 ...] [--text FILE] [--templates FILE])",
    ),
    "export": Command(
        export,
        "write a run's adapter in PEFT's format "
        "(--run DIR [--checkpoint N] [--scale S] [--rank R] [--out DIR])",
    ),
    "merge": Command(
        merge,
        "write a run's model with the adapters folded in (--run DIR [--checkpoint N] [--out DIR])",
    ),
    "push": Command(
        push,
        "push a run's adapter to the hub, or what is missing there "
        "(--run DIR or --adapter DIR, --to USER/REPO [--private false])",
    ),
    "convert": Command(
        convert,
        "write a model's pickled weights (pytorch_model.bin) as safetensors (FOLDER --out DIR)",
    ),
    "doctor": Command(doctor, "show the installed packages and the devices, and run a self-test"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command, and end with a sentence and an exit code whatever happens.

    The exit code is 2 for bad input and for a loss that is not finite, 130 for Ctrl-C, 141 where
    nobody reads the output, and 1 for everything else that fails.

    Args:
      arguments: the command's name and its arguments; those of the process by default.
    """
    run_to_its_end(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> None:
    """Find the command and run it."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        _print_help()
        return
    if name == "--version":
        from balora_jax import __version__

        print(f"balora-jax {__version__}")
        return
    # jax's decompositions on CPU use OpenBLAS, whose threads compete with XLA's: small matrices
    # take up to eighty times as long. OpenBLAS reads this when scipy is loaded, so before jax.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # It advises to install PyTorch, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Devices round float32 numbers before they multiply them; training.precision may let them.
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "float32")
    # These libraries log each of their attempts; the errors that matter are reported here.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # orbax's threads log the exceptions that they also raise.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # So do these, of orbax's tasks that fail after the first one.
    for name_of_logger in ("asyncio", "concurrent.futures"):
        logging.getLogger(name_of_logger).setLevel(logging.CRITICAL)
    sys.unraisablehook = print_unraisable
    if name not in COMMANDS:
        raise BadInput(f"there is no command {name[:100]!r}; accepted: {', '.join(COMMANDS)}")
    from balora_jax.config.plugins import load_plugins
    from balora_jax.training.interrupt import ends_by_signal

    with ends_by_signal("before its end; the same command starts it again"):
        COMMANDS[name].function(load_plugins(rest))


def _print_help() -> None:
    print("usage: balora COMMAND [--help] [options]\n")
    for name, command in COMMANDS.items():
        print(f"  {name:11} {command.help}")
