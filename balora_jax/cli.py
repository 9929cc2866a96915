"""The command line. Bad input ends with one sentence on the error stream and exit code 2."""

import logging
import os
import sys
from collections.abc import Callable, Sequence

from jsonargparse import ArgumentParser, Namespace

from balora_jax.config.parse import parse, read_config, split
from balora_jax.config.plugins import load_plugins
from balora_jax.errors import BadInput, Diverged


def train(arguments: Sequence[str]) -> None:
    """fine-tune a model, or go on with a run (--config FILE [--section.key value ...])"""
    config = read_config(arguments)
    from balora_jax.runs.finetune import finetune

    finetune(config)


def quickstart(arguments: Sequence[str]) -> None:
    """fine-tune the embedded tiny model, with no network, and see what became of what was planted in it"""
    from balora_jax.evaluation.tiny_world import embedded

    train([*embedded.quickstart(), *arguments])


def compare(arguments: Sequence[str]) -> None:
    """run methods side by side (--out DIR [--methods M ...] [--seeds N ...] [--learning_rates R ...], and train's)"""
    parser = ArgumentParser(prog="balora compare", description=compare.__doc__, exit_on_error=False)
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
    own, run = split(arguments, ("out", "methods", "seeds", "learning_rates", "help"))
    options = parse(parser, own)
    from balora_jax.runs.compare import compare as run_all

    print(
        run_all(
            options.out, options.methods, options.seeds, options.learning_rates, run
        ).read_text()
    )


def export(arguments: Sequence[str]) -> None:
    """write a run's adapter in PEFT's format (--run DIR [--checkpoint N] [--out DIR])"""
    options = _read_run_options("export", "adapter", arguments)
    from balora_jax.runs.export import export_run

    print(export_run(options.run, options.checkpoint, options.out))


def merge(arguments: Sequence[str]) -> None:
    """write a run's model with the adapters folded in (--run DIR [--checkpoint N] [--out DIR])"""
    options = _read_run_options("merge", "merged", arguments)
    from balora_jax.runs.export import merge_run

    print(merge_run(options.run, options.checkpoint, options.out))


def generate(arguments: Sequence[str]) -> None:
    """continue prompts (--run DIR or --model SOURCE, --prompt TEXT or --prompts FILE, --compare)"""
    from balora_jax.runs.generate import GenerateOptions, complete

    parser = ArgumentParser(
        prog="balora generate", description="Continue prompts.", exit_on_error=False
    )
    parser.add_class_arguments(GenerateOptions)
    complete(GenerateOptions(**vars(parse(parser, arguments))))


def doctor(arguments: Sequence[str]) -> None:
    """say what is installed and found here, and test that it works"""
    parse(
        ArgumentParser(prog="balora doctor", description=doctor.__doc__, exit_on_error=False),
        arguments,
    )
    from balora_jax.runs.doctor import diagnose

    diagnose()


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "quickstart": quickstart,
    "compare": compare,
    "generate": generate,
    "export": export,
    "merge": merge,
    "doctor": doctor,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; exits with 2 on bad input and on a loss that is not finite."""
    name, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: balora COMMAND [--help] [options]\n")
        print(
            "\n".join(
                f"  {command:11} {function.__doc__}" for command, function in COMMANDS.items()
            )
        )
        return
    # jax's decompositions on CPU go through OpenBLAS, whose threads spin against XLA's own: on small matrices a
    # decomposition then takes up to eighty times as long. Read when scipy is loaded, so set before jax is.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # The hub's client and the checkpoint library log each of their attempts; what comes of them is said in a sentence.
    for library in ("huggingface_hub", "absl"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        if name not in COMMANDS:
            raise BadInput(f"there is no command {name!r}; accepted: {', '.join(COMMANDS)}")
        COMMANDS[name](load_plugins(rest))
    except (BadInput, Diverged) as error:
        print(f"balora: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        # Training itself takes Ctrl-C as a request to save and stop; this is before or after it.
        print("balora: interrupted", file=sys.stderr)
        sys.exit(130)


def _read_run_options(command: str, kind: str, arguments: Sequence[str]) -> Namespace:
    parser = ArgumentParser(
        prog=f"balora {command}", description=COMMANDS[command].__doc__, exit_on_error=False
    )
    parser.add_argument("--run", type=str, required=True, help="the run's folder")
    parser.add_argument(
        "--checkpoint", type=str, default="latest", help="a step, latest, or best (held out)"
    )
    parser.add_argument(
        "--out",
        type=str,
        default=None,
        help=f"where to write; {kind}/ in the run's folder by default",
    )
    return parse(parser, arguments)
