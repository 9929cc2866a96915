"""The tokenizer of a model, from files alone: no code of the checkpoint is run."""

from pathlib import Path
from typing import Any

from balora_jax.data.sources import HUB_NAME
from balora_jax.errors import BadInput

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "spm.model",
    "tekken.json",
)


def load_tokenizer(source: str, revision: str | None = None) -> Any:
    """Load a Hugging Face tokenizer.

    Args:
      source: a folder with tokenizer files, or a hub id.
      revision: a branch, tag or commit on the hub.

    Returns:
      The tokenizer, with a pad token (EOS where it had none) and padding on the right.

    Raises:
      BadInput: there are no tokenizer files, or they cannot be read.
    """
    from transformers import AutoTokenizer

    folder = Path(source).expanduser()
    if folder.is_dir() and not any((folder / name).is_file() for name in FILES):
        raise BadInput(
            f"{source} has no tokenizer files; accepted: a folder with one of {', '.join(FILES)}"
        )
    if not folder.is_dir() and not HUB_NAME.fullmatch(source):
        raise BadInput(
            f"the tokenizer folder {source} does not exist; accepted: a folder, or a hub id"
        )
    name = str(folder) if folder.is_dir() else source
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    # The tokenizers library raises plain Exception for a broken file.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise BadInput(f"the tokenizer of {source} cannot be loaded: {reason}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer
