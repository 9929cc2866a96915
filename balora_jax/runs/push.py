"""An adapter's folder pushed to a repository of the hub, and what is checked before training."""

import pathlib
import shlex
import sys

import huggingface_hub
import jax
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console

from balora_jax import models
from balora_jax.adapters.peft_format.names import WEIGHTS
from balora_jax.config import RunConfig
from balora_jax.config.push import PushOptions
from balora_jax.errors import BadInput, OutputError, first_line, listed
from balora_jax.runs.export import foreign_entries
from balora_jax.training.run_folder import RunFolder

# The answers of a server that knows the token and refuses it.
REFUSED = (401, 403)
LOGIN = "`hf auth login` with a token that may write, or one in HF_TOKEN"


def check_push(repository: str, *, private: bool) -> None:
    """Check that the hub can be pushed to; nothing is written there.

    A hub that does not answer now may do so after the training: that is a note.

    Args:
      repository: USER/REPO.
      private: whether a public repository is refused.

    Raises:
      BadInput: there is no token, the hub refuses it or lets it only read, the repository is
        public, or HF_HUB_OFFLINE is set.
    """
    _require_token(repository)
    hub = huggingface_hub.HfApi()
    try:
        _require_writing(hub.whoami())
        _require_private(hub, repository, private=private)
    except BadInput:
        raise
    except Exception as error:  # the hub's client raises those of its libraries, too
        if _status(error) in REFUSED:
            raise BadInput(
                f"the hub refuses the token for {repository} ({first_line(error)}); "
                f"accepted: {LOGIN}"
            ) from error
        print(
            f"note: the hub does not answer now ({first_line(error)}); {repository} is pushed to "
            "after the training all the same",
            file=sys.stderr,
        )


def push_run(config: RunConfig, folder: RunFolder, console: Console) -> None:
    """Push the adapter of a run that has ended, from its process 0.

    Args:
      config: of the run.
      folder: the run folder.
      console: where to print the repository's address.

    Raises:
      OutputError: the hub does not take it; the run's files are whole.
    """
    if jax.process_index() != 0:
        return
    output = config.output
    options = PushOptions(output.push_to, run=str(folder.path), private=output.push_private)
    console.print(f"pushed to {push_folder(options)}", highlight=False, soft_wrap=True)


def push_folder(options: PushOptions) -> str:
    """Push an adapter's files, or those that the repository lacks or has otherwise.

    Args:
      options: the folder and the repository.

    Returns:
      The repository's address.

    Raises:
      BadInput: the folder holds no adapter or other files, there is no token, or the repository is
        public.
      OutputError: the hub does not take it.
    """
    folder = _adapter_folder(options)
    names = adapter_files(folder)
    _require_token(options.to)
    hub = huggingface_hub.HfApi()
    try:
        address = hub.create_repo(options.to, private=options.private, exist_ok=True)
        _require_private(hub, options.to, private=options.private)
        # Files that the repository has already are not sent again.
        files = [huggingface_hub.CommitOperationAdd(name, folder / name) for name in names]
        hub.create_commit(options.to, files, commit_message="Push the adapter by balora-jax")
    except BadInput:
        raise
    except Exception as error:  # the hub's client raises those of its libraries, too
        raise OutputError(
            f"{folder} could not be pushed to {options.to} ({first_line(error)}); nothing is lost, "
            f"and this pushes what is missing: {_command(options)}"
        ) from error
    return str(address)


def adapter_files(folder: pathlib.Path) -> list[str]:
    """List the files of an adapter's folder, which are all that is pushed.

    Args:
      folder: the folder.

    Returns:
      Their paths in it.

    Raises:
      BadInput: it is no adapter's folder, or has other files, or links that leave it.
    """
    if not (folder / WEIGHTS).is_file():
        raise BadInput(
            f"{folder} has no {WEIGHTS}; accepted: adapter/ of a run that has ended, "
            "or what balora export wrote"
        )
    foreign = foreign_entries(folder)
    if foreign:
        raise BadInput(
            f"{folder} holds {listed(foreign)}, which balora did not write; accepted: an adapter's "
            "files alone, of which all are pushed"
        )
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    names = [path.relative_to(folder).as_posix() for path in files]
    for name in names:
        models.regular_file(folder, name)
    return names


def _adapter_folder(options: PushOptions) -> pathlib.Path:
    if options.run is None:
        return pathlib.Path(options.adapter).expanduser()
    folder = RunFolder(options.run)
    folder.read_config()
    return folder.adapter


def _require_token(repository: str) -> None:
    if huggingface_hub.is_offline_mode():
        raise BadInput(
            f"HF_HUB_OFFLINE is set, and {repository} is on the hub; accepted: without it"
        )
    if huggingface_hub.get_token() is None:
        raise BadInput(
            f"{repository} is to be pushed to, and there is no token of the hub; accepted: {LOGIN}"
        )


def _require_writing(user: dict) -> None:
    token = user.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise BadInput(f"the hub's token of {user.get('name')} may only read; accepted: {LOGIN}")


def _require_private(hub: huggingface_hub.HfApi, repository: str, *, private: bool) -> None:
    """Refuse a repository that everybody can read, unless that is asked for."""
    if not private:
        return
    try:
        is_private = hub.repo_info(repository).private
    except HfHubHTTPError as error:
        if _status(error) != 404:
            raise
        return
    if not is_private:
        raise BadInput(
            f"{repository} is public, and the adapter is to be private; accepted: "
            "output.push_private false (of balora push --private false), or another repository"
        )


def _status(error: Exception) -> int | None:
    """The hub's answer to a request that failed; None if there was none."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _command(options: PushOptions) -> str:
    """The command that pushes again."""
    name = "run" if options.run is not None else "adapter"
    private = "" if options.private else " --private false"
    place = shlex.quote(getattr(options, name))
    return f"balora push --{name} {place} --to {options.to}{private}"
