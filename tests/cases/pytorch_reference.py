"""PyTorch models with random parameters, and their logits, for comparison."""

from pathlib import Path

import jax
import numpy as np
import torch
import transformers

torch.set_num_threads(2)
transformers.utils.logging.disable_progress_bar()

# One compiled function for each model and shape in a session, shared by the tests.
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
        """The model's logits."""
        return torch_logits(self.model, ids, mask, **more)


def torch_logits(
    model: torch.nn.Module, ids: np.ndarray, mask: np.ndarray | None = None, **more
) -> np.ndarray:
    """The model's logits; `mask` defaults to all tokens."""
    mask = np.ones(ids.shape, bool) if mask is None else mask
    arrays = {"input_ids": ids, "attention_mask": mask, **more}
    tensors = {key: torch.tensor(value).long() for key, value in arrays.items()}
    with torch.no_grad():
        return model(**tensors).logits.numpy()


def relative(ours, theirs: np.ndarray, mask: np.ndarray | None = None) -> float:
    """The largest difference relative to the largest value, over positions with mask True."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    assert np.isfinite(ours).all()
    keep = slice(None) if mask is None else mask
    return float(np.abs(ours - theirs)[keep].max() / np.abs(theirs[keep]).max())
