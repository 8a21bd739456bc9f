"""One run of the build: its time limit, and the loop that continues a stage from its saved state."""

import time
from typing import Protocol

from script.tiny_flux.schedule import Progress
from script.tiny_flux.state import StageState, StateFolder, Tensors

SAVE_INTERVAL = 240  # seconds


class RunOverError(Exception):
    """Raised when the time of a run is over and its state is saved; the next run continues from it."""


class Run(Protocol):
    """One run of the build, which ends after some time."""

    def is_over(self) -> bool:
        """Return whether the run must stop; called after every step."""


class TimedRun:
    """A run that ends some minutes from now; None is without an end."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    def is_over(self) -> bool:
        """Return whether the minutes have passed."""
        return self._end is not None and time.monotonic() >= self._end


class Trainer(Protocol):
    """Trains the networks of a stage. Its state is everything that the next step depends on."""

    @property
    def settings(self) -> object:
        """The settings; a saved state is valid for the same settings only."""

    @property
    def steps(self) -> int:
        """The number of steps of the stage."""

    def step(self, index: int) -> float:
        """Take the step of this number, and return its loss."""

    def measure(self) -> str:
        """Return the current quality of the networks as text. Changes nothing, not even random generators."""

    def state_dict(self) -> Tensors:
        """Return weights, averages, optimizers and random generators."""

    def load_state_dict(self, state: Tensors) -> None:
        """Load a state from `state_dict`."""


def train_stage(name: str, trainer: Trainer, *, folder: StateFolder, run: Run) -> None:
    """Train a stage to its end. Save its state every few minutes, at its end, and when the run is over.

    Raises RunOverError when the run is over.
    """
    step = _resume(name, trainer, folder=folder)
    progress, saved = Progress(name, trainer.steps, done=step), time.monotonic()
    while step < trainer.steps:
        progress.advance(trainer.step(step))
        step += 1
        is_over = run.is_over()
        if is_over or step == trainer.steps or time.monotonic() - saved > SAVE_INTERVAL:
            folder.save(name, trainer.settings, StageState(step, trainer.state_dict()))
            print(f"{name}: step {step}/{trainer.steps} saved; {trainer.measure()}", flush=True)
            saved = time.monotonic()
        if is_over:
            raise RunOverError


def _resume(name: str, trainer: Trainer, *, folder: StateFolder) -> int:
    """Load the saved state of a stage into its trainer, and return the number of completed steps."""
    state = folder.load(name, trainer.settings)
    if state is None:
        return 0
    trainer.load_state_dict(state.trainer)
    print(f"{name}: resuming at step {state.step}/{trainer.steps}", flush=True)
    return state.step
