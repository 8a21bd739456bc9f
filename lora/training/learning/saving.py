"""When and how a training saves checkpoints: a full disk costs a checkpoint, but not the training."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lora.training.checkpoints.store import CheckpointStore
from lora.training.learning.state import TrainingState
from lora.training.progress import Log

SECONDS_BETWEEN_CHECKPOINTS = 180.0  # at most, whatever checkpoint_every is; our choice

Groups = dict[str, dict[str, Tensor]]
Contents = tuple[Groups, dict[str, Any]]  # tensors in groups, and JSON


class CheckpointSaver:
    """Saves checkpoints of one training in a store."""

    def __init__(self, store: CheckpointStore, log: Log, *, every: int) -> None:
        """`every` is the number of steps between checkpoints."""
        self._store, self._log, self._every = store, log, every
        self.saved_step, self._saved_at = 0, time.monotonic()

    def save_if_due(self, state: TrainingState, contents: Callable[[], Contents]) -> None:
        """Save if enough steps or seconds have passed since the last checkpoint."""
        if state.step % self._every == 0 or time.monotonic() - self._saved_at > SECONDS_BETWEEN_CHECKPOINTS:
            self.save(state, contents)

    def save(self, state: TrainingState, contents: Callable[[], Contents], *, most_skipped: int = 0) -> None:
        """Save, unless nothing has changed or the training may be diverging: if its weights are not finite, or more
        than `most_skipped` steps in a row were skipped."""
        if state.step == self.saved_step or state.skipped_in_a_row > most_skipped or not state.is_finite():
            return
        tensors, values = contents()
        if self._try(lambda: self._store.save(state.step, tensors, values), state.step):
            self.saved_step = state.step
        self._saved_at = time.monotonic()

    def save_best(self, step: int, average: Mapping[str, Tensor], values: dict[str, Any]) -> None:
        """Save averaged weights as the best so far."""
        self._try(lambda: self._store.save_best(step, {"average": average}, values), step)

    def _try(self, save: Callable[[], object], step: int) -> bool:
        try:
            save()
        except OSError as error:
            self._log.write(f"could not save a checkpoint at step {step}: {error.strerror or error}")
            return False
        return True
