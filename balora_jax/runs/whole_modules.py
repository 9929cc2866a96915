"""The modules of a run's base that are trained whole, and the end of a tie that they share."""

from collections.abc import Iterable
from typing import Any

from flax import traverse_util

from balora_jax import adapters, models
from balora_jax.adapters import peft_format
from balora_jax.config import RunConfig
from balora_jax.objective.params import Tree
from balora_jax.runs.peft_folder import peft_folder
from balora_jax.training.state import Path

LM_HEAD = ("lm_head",)
OPTION = "adapter.modules_to_save"
# A tensor of repeated layers is of all of them: a single one cannot be trained whole.
STACKS = frozenset(peft_format.STACKS)


def trained_modules(config: RunConfig, loaded: models.Loaded) -> tuple[Path, ...]:
    """List the modules that a run trains whole.

    They are those of `adapter.modules_to_save`; or a classifier's head, and a fresh pooler.

    Args:
      config: the run.
      loaded: from `load_model`.

    Returns:
      The paths of the modules.

    Raises:
      BadInput: a pattern matches no module, or one of the repeated layers.
    """
    if not hasattr(loaded.model, "labels"):
        return modules_to_save(config, loaded.params)
    head = models.head_modules(loaded.model)
    return (*head, *(module for module in loaded.fresh if module[:1] not in head))


def modules_to_save(config: RunConfig, base: Tree) -> tuple[Path, ...]:
    """List the modules of `adapter.modules_to_save`.

    Args:
      config: the run.
      base: the parameters of the model, or their shapes.

    Raises:
      BadInput: a pattern matches no module outside the repeated layers.
    """
    # A tied model has a head only once a pattern has named it.
    single = [LM_HEAD, *single_modules(base)]
    found: list[Path] = []
    for pattern in config.adapter.modules_to_save or []:
        found += adapters.layers_matching(OPTION, pattern, single)
    return tuple(dict.fromkeys(found))


def single_modules(base: Tree) -> list[Path]:
    """List the modules outside the repeated layers.

    Args:
      base: the parameters of the model, or their shapes.
    """
    modules = dict.fromkeys(path[:-1] for path in traverse_util.flatten_dict(base))
    return [path for path in modules if not STACKS & set(path)]


def ends_tie(model: Any, adapted: Iterable[str], saved: Iterable[str] = ()) -> bool:
    """Return True if some modules are a side of a tied head and embedding.

    Each side then gets weights of its own: what changes one of them leaves the other, as in PEFT.

    Args:
      model: the Linen module.
      adapted: names of adapted modules.
      saved: patterns of modules that are trained whole.
    """
    if not isinstance(model, models.CausalLM) or not model.config.tied:
        return False
    sides = (LM_HEAD, model.embedding_path[:-1])
    is_adapted = any(
        f".{adapters.dotted(side)}".endswith(f".{name}") for side in sides for name in adapted
    )
    return is_adapted or any(
        adapters.is_inside(OPTION, pattern, side) for side in sides for pattern in saved
    )


def untied_model(config: RunConfig, model: Any) -> Any:
    """Return the model that a run trains: without a tie of which the run changes one side.

    Args:
      config: the run.
      model: the Linen module.
    """
    if config.method == "full":
        return model
    saved = config.adapter.modules_to_save or []
    return models.untied(model) if ends_tie(model, _adapted(config), saved) else model


def untie(loaded: models.Loaded, place: Any) -> models.Loaded:
    """Give the head of a tied model weights of its own, those of the embedding.

    Args:
      loaded: the model.
      place: puts one parameter, given its path and value, on its devices.
    """
    kernel = models.embedding_of(loaded.model, loaded.params).T
    head = {LM_HEAD[0]: {"kernel": place((*LM_HEAD, "kernel"), kernel)}}
    return loaded._replace(model=models.untied(loaded.model), params=loaded.params | head)


def _adapted(config: RunConfig) -> list[str]:
    """The modules that a run adapts, by names or patterns."""
    if adapters.find_start(config.adapter_init) is None:
        return peft_format.module_names(peft_folder(config.adapter_init))
    targets = config.adapter.targets
    return [targets] if isinstance(targets, str) else targets
