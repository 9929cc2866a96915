"""The layers that an adapter's options name, and the rank and scale of each of them.

The rules are PEFT's: `check_target_module_exists` and `get_pattern_key`.
"""

import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from balora_jax.adapters.peft_format.patterns import Match, Patterns
from balora_jax.adapters.peft_format.settings import Settings

Number = TypeVar("Number", int, float)
ALL_LINEAR = "all-linear"
HEAD = "lm_head"
# PEFT matches the start of a layer's name with these, which hold a pattern of the options.
WHOLE = r"(?:{})\Z"
END = r"(.*\.)?({})$"
INSIDE = r"(^|.*\.){}($|\..*)"
INDEX_IN = r"(?:^|.*?\.){}\.(?P<idx>\d+)\."
FIRST_INDEX = r".*?\.[^.]*\.(?P<idx>\d+)\."


class Product(NamedTuple):
    """The product of a layer's factors, scale * B A.

    Attributes:
      rank: rows of A.
      scale: its factor.
    """

    rank: int
    scale: float


class Layers:
    """The layers of an adapter, by the options of its adapter_config.json."""

    def __init__(self, path: pathlib.Path, settings: Settings) -> None:
        """Compile the patterns of the options.

        Args:
          path: the file, for messages.
          settings: the options.

        Raises:
          BadInput: a pattern is no regular expression or too large.
        """
        patterns = Patterns(path)
        targets = settings.targets
        is_open = targets is None or (isinstance(targets, str) and targets.lower() == ALL_LINEAR)
        self._settings = settings
        self._is_target = None if is_open else _one_of(patterns, "target_modules", targets)
        self._is_excluded = _one_of(patterns, "exclude_modules", settings.excluded)
        self._saved = [
            patterns.compiled("modules_to_save", name, INSIDE)
            for name in dict.fromkeys(settings.saved)
        ]
        self._index = [
            patterns.compiled("layers_pattern", stack, INDEX_IN) for stack in settings.stacks
        ] or [patterns.compiled("layers_to_transform", FIRST_INDEX)]
        self._ranks = _by_pattern(patterns, "rank_pattern", settings.ranks)
        self._alphas = _by_pattern(patterns, "alpha_pattern", settings.alphas)

    def is_adapted(self, name: str) -> bool | None:
        """Return True if the layer is adapted; None if the options leave it to the model.

        Args:
          name: Hugging Face's name of the layer.

        Raises:
          BadInput: the patterns take too long.
        """
        if self.is_left_out(name):
            return False
        if self._is_target is not None and not self._is_target(name):
            # PEFT names the embedding alone where it adapts both sides of a tie.
            return None if self._settings.tied and name == HEAD else False
        if (
            self._settings.indices is not None
            and self._index_of(name) not in self._settings.indices
        ):
            return False
        return None if self._is_target is None else True

    def is_left_out(self, name: str) -> bool:
        """Return True if exclude_modules or modules_to_save takes a layer out of the targets.

        Args:
          name: Hugging Face's name of the layer.

        Raises:
          BadInput: the patterns take too long.
        """
        return bool(self._is_excluded(name)) or any(is_saved(name) for is_saved in self._saved)

    def product(self, name: str) -> Product:
        """Return the rank and scale of a layer's factors.

        Args:
          name: Hugging Face's name of the layer.

        Raises:
          BadInput: the patterns take too long.
        """
        rank = _number_of(name, self._ranks, self._settings.rank)
        alpha = _number_of(name, self._alphas, self._settings.alpha)
        return Product(rank, alpha / (math.sqrt(rank) if self._settings.rank_stabilized else rank))

    def _index_of(self, name: str) -> int | None:
        """The index of a layer in its stack."""
        for match in self._index:
            found = match(name)
            if found is not None:
                index = found["idx"]
                return int(index) if index is not None and index.isdecimal() else None
        return None


def name_ends(name: str) -> Iterator[str]:
    """The ends of a dotted name: a.b.c, b.c, c.

    Args:
      name: of a module.
    """
    yield name
    for place, character in enumerate(name):
        if character == ".":
            yield name[place + 1 :]


def _one_of(
    patterns: Patterns, option: str, value: str | tuple[str, ...]
) -> Callable[[str], object]:
    """The function that tells if a name is of an option: a regular expression, or names."""
    if isinstance(value, str):
        return patterns.compiled(option, value, WHOLE)
    names = frozenset(value)
    return lambda name: any(end in names for end in name_ends(name))


def _by_pattern(
    patterns: Patterns, option: str, numbers: Mapping[str, Number]
) -> list[tuple[Match, Number]]:
    return [
        (patterns.compiled(option, pattern, END), number) for pattern, number in numbers.items()
    ]


def _number_of(name: str, numbers: list[tuple[Match, Number]], default: Number) -> Number:
    """The number of the first pattern that matches."""
    return next((number for match, number in numbers if match(name)), default)
