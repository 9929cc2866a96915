"""The command line. Bad input ends with one sentence on the error stream and exit code 2."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jsonargparse import ArgumentParser, Namespace

from balora_jax.config.parse import add_options, parse, read_config, split
from balora_jax.config.plugins import load_plugins
from balora_jax.errors import BadInput, Diverged, OutputError

# The system refused to write: no space, no quota, too large, read only, a fault of the device.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


class Command(NamedTuple):
    """A command of the command line.

    Attributes:
      function: runs the command, given the arguments after its name.
      help: its line in the help, with the main options.
    """

    function: Callable[[Sequence[str]], None]
    help: str


# Each command imports its module when it runs, so that help and errors need not wait for jax.
def train(arguments: Sequence[str]) -> None:
    """Run `balora train`."""
    config = read_config(arguments)
    from balora_jax.runs.finetune import finetune

    finetune(config)


def quickstart(arguments: Sequence[str]) -> None:
    """Run `balora quickstart`: train on the tiny model and data that come with the package."""
    from balora_jax.evaluation.tiny_world import embedded

    train([*embedded.quickstart(), *arguments])


def compare(arguments: Sequence[str]) -> None:
    """Run `balora compare`."""
    parser = _parser("compare")
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
    compare_arguments, train_arguments = split(arguments, names)
    options = parse(parser, compare_arguments)
    from balora_jax.runs.compare import compare as compare_methods

    path = compare_methods(
        options.out, options.methods, options.seeds, options.learning_rates, train_arguments
    )
    print(path.read_text())


def export(arguments: Sequence[str]) -> None:
    """Run `balora export`."""
    options = _read_run_options("export", "adapter", arguments)
    from balora_jax.runs.export import export_run

    print(export_run(options.run, options.checkpoint, options.out))


def merge(arguments: Sequence[str]) -> None:
    """Run `balora merge`."""
    options = _read_run_options("merge", "merged", arguments)
    from balora_jax.runs.export import merge_run

    print(merge_run(options.run, options.checkpoint, options.out))


def generate(arguments: Sequence[str]) -> None:
    """Run `balora generate`."""
    from balora_jax.runs.generate import GenerateOptions, generate_texts

    parser = ArgumentParser(
        prog="balora generate", description="Continue prompts.", exit_on_error=False
    )
    add_options(parser, GenerateOptions)
    options = parse(parser, arguments)
    generate_texts(GenerateOptions(**vars(options)))


def doctor(arguments: Sequence[str]) -> None:
    """Run `balora doctor`."""
    parse(_parser("doctor"), arguments)
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
    "export": Command(
        export, "write a run's adapter in PEFT's format (--run DIR [--checkpoint N] [--out DIR])"
    ),
    "merge": Command(
        merge,
        "write a run's model with the adapters folded in (--run DIR [--checkpoint N] [--out DIR])",
    ),
    "doctor": Command(doctor, "show the installed packages and the devices, and run a self-test"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit with code 2 on bad input or a loss that is not finite.

    Args:
      arguments: the command's name and its arguments; those of the process by default.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        _print_help()
        return
    # jax's decompositions on CPU use OpenBLAS, whose threads compete with XLA's: small matrices
    # take up to eighty times as long. OpenBLAS reads this when scipy is loaded, so before jax.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # These libraries log each of their attempts; the errors that matter are reported here.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # orbax's threads log the exceptions that they also raise.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        if name not in COMMANDS:
            raise BadInput(f"there is no command {name!r}; accepted: {', '.join(COMMANDS)}")
        COMMANDS[name].function(load_plugins(rest))
    except (BadInput, Diverged) as error:
        print(f"balora: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OutputError as error:
        print(f"balora: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"balora: {_disk_sentence(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        # During training Ctrl-C is a request to save and stop; this is before or after it.
        print("balora: interrupted", file=sys.stderr)
        sys.exit(130)


def _disk_sentence(error: OSError) -> str:
    """What could not be written, why, and how to go on."""
    name = f"{error.filename} " if error.filename else "a file "
    return (
        f"{name}could not be written ({error.strerror}); make room and repeat the command: "
        "what was whole before still is, and --output.resume goes on from a run's checkpoint"
    )


def _print_help() -> None:
    print("usage: balora COMMAND [--help] [options]\n")
    for name, command in COMMANDS.items():
        print(f"  {name:11} {command.help}")


def _parser(name: str) -> ArgumentParser:
    """An empty parser for a command."""
    return ArgumentParser(
        prog=f"balora {name}", description=COMMANDS[name].help, exit_on_error=False
    )


def _read_run_options(command: str, subfolder: str, arguments: Sequence[str]) -> Namespace:
    """Parse the options of `balora export` and `balora merge`."""
    parser = _parser(command)
    parser.add_argument("--run", type=str, required=True, help="the run's folder")
    parser.add_argument(
        "--checkpoint", type=str, default="latest", help="a step, latest, or best (held out)"
    )
    parser.add_argument(
        "--out",
        type=str,
        default=None,
        help=f"where to write; {subfolder}/ in the run's folder by default",
    )
    return parse(parser, arguments)
