"""Reference models in PyTorch with random parameters, and their logits."""

from pathlib import Path

import jax
import numpy as np
import torch
import transformers

torch.set_num_threads(2)
transformers.utils.logging.disable_progress_bar()

# One function for all tests, so that each model and shape compiles once.
run = jax.jit(lambda model, variables, *inputs: model.apply(variables, *inputs), static_argnums=0)


class Reference:
    """A transformers model with every parameter random, on disk and in memory."""

    def __init__(self, model: torch.nn.Module, folder: Path, **save) -> None:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                spread = 0.3 if parameter.ndim == 1 else 1.5 * parameter.shape[-1] ** -0.5
                parameter.add_(torch.randn_like(parameter) * spread)
        self.model = model.eval()
        self.folder = folder
        model.save_pretrained(folder, **save)

    def logits(self, ids: np.ndarray, mask: np.ndarray | None = None, **more) -> np.ndarray:
        return torch_logits(self.model, ids, mask, **more)


def torch_logits(
    model: torch.nn.Module, ids: np.ndarray, mask: np.ndarray | None = None, **more
) -> np.ndarray:
    mask = np.ones(ids.shape, bool) if mask is None else mask
    given = {"input_ids": ids, "attention_mask": mask, **more}
    with torch.no_grad():
        return model(
            **{key: torch.tensor(value).long() for key, value in given.items()}
        ).logits.numpy()


def relative(ours, theirs: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the largest difference relative to the largest value, where the mask is True."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    assert np.isfinite(ours).all()
    keep = slice(None) if mask is None else mask
    return float(np.abs(ours - theirs)[keep].max() / np.abs(theirs[keep]).max())
