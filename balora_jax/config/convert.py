"""The options of `balora convert`."""

from dataclasses import dataclass

from balora_jax.config.paths import FILE, FOLDER, check_output, check_path
from balora_jax.errors import BadInput


@dataclass(frozen=True)
class ConvertOptions:
    """The options of `balora convert`.

    Attributes:
      source: a Hugging Face folder with pickled weights, or a file of them in one.
      out: the new folder.
    """

    source: str
    out: str

    def __post_init__(self) -> None:
        try:
            check_path("the model", self.source, kind=FOLDER, must_exist=True)
        except BadInput as error:
            if "is a file" not in str(error):
                raise
            check_path("the model", self.source, kind=FILE)
        check_output("--out", self.out)
