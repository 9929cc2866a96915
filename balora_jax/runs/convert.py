"""A model's pickled weights written anew as safetensors, with its configuration and tokenizer."""

import pathlib
import shutil
import sys

from balora_jax import models
from balora_jax.config.convert import ConvertOptions
from balora_jax.errors import BadInput, listed
from balora_jax.runs.new_folders import check_new_folder, replacing_folder

# As Hugging Face does, larger models are split over several files.
MOST_BYTES = 5 * 10**9


def convert(options: ConvertOptions) -> pathlib.Path:
    """Write a Hugging Face folder with a model's weights as safetensors.

    Args:
      options: the model and the folder to write.

    Returns:
      The folder.

    Raises:
      BadInput: the source is no model, its weights are no tensors alone, or PyTorch is missing.
    """
    models.pickled.require_torch()
    source = pathlib.Path(options.source).expanduser()
    out = pathlib.Path(options.out).expanduser()
    check_new_folder(out)
    if out.resolve().is_relative_to(source.resolve()):
        raise BadInput(f"--out {out} is in {source}; accepted: a folder elsewhere")
    folder, files = models.pickled.pickled_files(source)
    config = models.read_json(folder / models.CONFIG_FILE)
    copied = [models.CONFIG_FILE, *models.copied_files(folder)]
    tied = models.pickled.ties_weights(config)
    tensors, left_out = models.pickled.read_pickled(files, tied=tied)
    with replacing_folder(out, new=True) as beside:
        models.write_checkpoint(beside, tensors, MOST_BYTES)
        for name in copied:
            (beside / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, beside / name)
    if left_out:
        print(
            f"left out, being the same tensors as others: {listed(left_out)} (the model ties them)",
            file=sys.stderr,
        )
    return out
