"""The start of a run's loggers: their libraries checked first, their runs found or begun later."""

import functools
import importlib
import importlib.util
import json
from collections.abc import Iterable
from types import ModuleType
from typing import NamedTuple

from balora_jax.config import RunConfig
from balora_jax.errors import BadInput, reason_of
from balora_jax.reporting.loggers.sending import Sending
from balora_jax.reporting.loggers.service import Identity, Service, Start
from balora_jax.training.metrics import Logger
from balora_jax.training.replacing import write_whole
from balora_jax.training.run_folder import RunFolder

TENSORBOARD = "tensorboard"
# The class of each service, in the module here that has the service's name and imports its library.
SERVICES = {"wandb": "WandB", "mlflow": "MLflow", "trackio": "Trackio"}


def check_loggers(names: Iterable[str]) -> None:
    """Check that loggers are installed and can be used; nothing is written or sent.

    Args:
      names: of `output.loggers`.

    Raises:
      BadInput: one is not installed, fails to be imported, or lacks a key.
    """
    for name in names:
        if name == TENSORBOARD:
            continue
        accepted = f'accepted: pip install "balora-jax[{name}]", or output.loggers without it'
        if not _is_installed(name):
            raise BadInput(f"output.loggers has {name}, which is not installed; {accepted}")
        try:
            _module(name).check()
        except BadInput:
            raise
        except Exception as error:  # a library may raise anything
            raise BadInput(
                f"output.loggers has {name}, which cannot be used ({reason_of(error)}); {accepted}"
            ) from error


def _is_installed(name: str) -> bool:
    """True for a package; a folder of that name, such as W&B's own ./wandb, is none."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


class NewServices(NamedTuple):
    """Runs that were begun at services before the folder of the run was written to.

    Attributes:
      services: by the logger's name.
      identities: likewise.
    """

    services: dict[str, Service]
    identities: dict[str, Identity]


def begin_services(config: RunConfig, folder: RunFolder) -> NewServices:
    """Begin new runs at the services of `output.loggers`; loggers.json is neither read nor written.

    For a run that replaces the one in its folder, which is lost only if the services can be used.

    Args:
      config: the configuration of the run.
      folder: the run folder.

    Raises:
      BadInput: a service cannot be reached or refuses the run.
    """
    identities: dict[str, Identity] = {}
    services = {}
    for name in config.output.loggers:
        if name != TENSORBOARD:
            keep = functools.partial(identities.__setitem__, name)
            services[name] = _start_service(name, Start(folder, config, None, keep))
    return NewServices(services, identities)


def start_loggers(
    config: RunConfig, folder: RunFolder, start: int, begun: NewServices | None = None
) -> list[Logger]:
    """Start the loggers of a run, or go on in the services' runs that loggers.json names.

    Args:
      config: the configuration of the run.
      folder: the run folder, which exists.
      start: the step that the run resumes from; 0 for a new run.
      begun: the services, where they have been started already.

    Returns:
      The loggers.

    Raises:
      BadInput: a service cannot be reached or refuses the run, or loggers.json is damaged.
    """
    if begun is not None and begun.identities:
        write_whole(folder.loggers, json.dumps(begun.identities, indent=2) + "\n")
    services = {} if begun is None else begun.services
    loggers: list[Logger] = []
    try:
        for name in config.output.loggers:
            loggers.append(_start_one(name, config, folder, start, services.get(name)))
    except BaseException:
        for logger in loggers:
            logger.close("failed", None)
        raise
    return loggers


def _start_one(
    name: str, config: RunConfig, folder: RunFolder, start: int, service: Service | None
) -> Logger:
    if name == TENSORBOARD:
        # Imported where it is named, like the others.
        from balora_jax.reporting.loggers.tensorboard import TensorBoard

        return TensorBoard(folder, start)
    if service is None:
        service = _find_service(name, config, folder)
    return Sending(name, service, str(folder.metrics))


def _find_service(name: str, config: RunConfig, folder: RunFolder) -> Service:
    """Begin a run at a service, or go on in the one that an earlier start has begun."""
    identities = read_identities(folder)

    def keep(identity: Identity) -> None:
        # Before anything is sent: the next start must find what this one has begun.
        kept = identities | {name: identity}
        write_whole(folder.loggers, json.dumps(kept, indent=2) + "\n")

    return _start_service(name, Start(folder, config, identities.get(name), keep))


def _start_service(name: str, start: Start) -> Service:
    service = getattr(_module(name), SERVICES[name])
    try:
        return service(start)
    except (BadInput, OSError) as error:
        if isinstance(error, BadInput) or error.filename:
            raise
        raise _refusal(name, error) from error
    except Exception as error:  # a service may raise anything
        raise _refusal(name, error) from error


def _refusal(name: str, error: Exception) -> BadInput:
    return BadInput(
        f"output.loggers has {name}, which could not be started ({reason_of(error)}); nothing was "
        "trained; accepted: the same command once it can, or output.loggers without it"
    )


def read_identities(folder: RunFolder) -> dict[str, Identity]:
    """Read the run's names at the services from loggers.json.

    Args:
      folder: the run folder.

    Returns:
      The identities by logger; none where there is no such file.

    Raises:
      BadInput: the file is damaged.
    """
    if not folder.loggers.is_file():
        return {}
    try:
        kept = json.loads(folder.loggers.read_text(encoding="utf-8"))
        if not all(
            isinstance(value, str) for identity in kept.values() for value in identity.values()
        ):
            raise TypeError("a value is no text")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"{folder.loggers} cannot be read ({reason_of(error)}); accepted: the file as the run "
            "wrote it, or none, so that the loggers begin new runs"
        ) from error
    return kept


def _module(name: str) -> ModuleType:
    """The module here that has a service's name."""
    return importlib.import_module(f"balora_jax.reporting.loggers.{name}")
