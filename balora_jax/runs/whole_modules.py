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
    option = "adapter.modules_to_save"
    single = single_modules(base)
    found: list[Path] = []
    for pattern in config.adapter.modules_to_save or []:
        found += adapters.layers_matching(option, pattern, single)
    return tuple(dict.fromkeys(found))


def single_modules(base: Tree) -> list[Path]:
    """List the modules outside the repeated layers.

    Args:
      base: the parameters of the model, or their shapes.
    """
    modules = dict.fromkeys(path[:-1] for path in traverse_util.flatten_dict(base))
    return [path for path in modules if not STACKS & set(path)]


def ends_tie(model: Any, names: Iterable[str]) -> bool:
    """Return True if some modules are a side of a tied head and embedding.

    Each side then gets weights of its own: what changes one of them leaves the other, as in PEFT.

    Args:
      model: the Linen module.
      names: of modules that are trained or adapted, or patterns for them.
    """
    if not isinstance(model, models.CausalLM) or not model.config.tied:
        return False
    sides = [adapters.dotted(LM_HEAD), adapters.dotted(model.embedding_path[:-1])]
    return any(side == name or side.endswith(f".{name}") for side in sides for name in names)


def untied_model(config: RunConfig, model: Any) -> Any:
    """Return the model that a run trains: without a tie of which the run changes one side.

    Args:
      config: the run.
      model: the Linen module.
    """
    return models.untied(model) if ends_tie(model, _changed(config)) else model


def untie(loaded: models.Loaded, place: Any) -> models.Loaded:
    """Give the head of a tied model weights of its own, those of the embedding.

    Args:
      loaded: the model.
      place: puts one parameter, given its path and value, on its devices.
    """
    kernel = models.embedding_of(loaded.model, loaded.params).T
    head = {LM_HEAD[0]: {"kernel": place((*LM_HEAD, "kernel"), kernel)}}
    return loaded._replace(model=models.untied(loaded.model), params=loaded.params | head)


def _changed(config: RunConfig) -> list[str]:
    """The modules that a run changes, by names or patterns."""
    if config.method == "full":
        return []
    saved = config.adapter.modules_to_save or []
    if adapters.find_start(config.adapter_init) is None:
        return [*saved, *peft_format.module_names(peft_folder(config.adapter_init))]
    targets = config.adapter.targets
    return [*saved, *([targets] if isinstance(targets, str) else targets)]
