"""TensorBoard's files in a run folder."""

from collections.abc import Mapping

from tensorboardX import SummaryWriter

from balora_jax.training.metrics import Outcome
from balora_jax.training.run_folder import RunFolder


class TensorBoard:
    """A logger that writes every number to the folder tensorboard/ of a run."""

    def __init__(self, folder: RunFolder, start: int) -> None:
        """Open the folder; a resumed run hides the numbers that came after its checkpoint.

        Args:
          folder: the run folder.
          start: the step that the run resumes from; 0 for a new run.
        """
        purged_from = start + 1 if start else None
        self._board = SummaryWriter(str(folder.tensorboard), purge_step=purged_from)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a record."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self, outcome: Outcome, summary: object) -> None:
        """Close the files."""
        self._board.close()
