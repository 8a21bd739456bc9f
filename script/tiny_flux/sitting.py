"""One sitting of a build: how long it lasts, and the loop that takes a stage on from where the last sitting left it."""

import time
from typing import Protocol

from script.tiny_flux.schedule import Progress
from script.tiny_flux.state import StageState, StateFolder, Tensors

SAVED_EVERY = 240  # seconds


class SittingOverError(Exception):
    """The time of a sitting is up; the state is saved, and the next sitting goes on from it."""


class Sitting(Protocol):
    """Says when to stop."""

    def is_over(self) -> bool:
        """Asked after every step."""


class TimedSitting:
    """Lasts some minutes from now; without a number it has no end."""

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    def is_over(self) -> bool:
        """Whether its minutes have passed."""
        return self._end is not None and time.monotonic() >= self._end


class Trainer(Protocol):
    """What a stage trains. Its state is all that the next step depends on."""

    @property
    def settings(self) -> object:
        """A record of what it is started with: a state is of use to the same settings only."""

    @property
    def steps(self) -> int:
        """How many steps the stage has."""

    def step(self, index: int) -> float:
        """Take the step of this number, and return its loss."""

    def measure(self) -> str:
        """How good the networks are now, in words. Changes nothing, the generators of random numbers included."""

    def state_dict(self) -> Tensors:
        """Weights, their averages, optimizers and generators of random numbers."""

    def load_state_dict(self, state: Tensors) -> None:
        """Go on from such a state."""


def train_stage(name: str, trainer: Trainer, *, folder: StateFolder, sitting: Sitting) -> None:
    """Take a stage to its end. Its state is saved every few minutes, and at its end, and when the sitting is over."""
    step = _resume(name, trainer, folder=folder)
    progress, saved = Progress(name, trainer.steps, done=step), time.monotonic()
    while step < trainer.steps:
        progress.advance(trainer.step(step))
        step += 1
        is_over = sitting.is_over()
        if is_over or step == trainer.steps or time.monotonic() - saved > SAVED_EVERY:
            folder.save(name, trainer.settings, StageState(step, trainer.state_dict()))
            print(f"{name}: step {step}/{trainer.steps} saved; {trainer.measure()}", flush=True)
            saved = time.monotonic()
        if is_over:
            raise SittingOverError


def _resume(name: str, trainer: Trainer, *, folder: StateFolder) -> int:
    """Load the saved state of a stage into its trainer; the number of steps that are done."""
    state = folder.load(name, trainer.settings)
    if state is None:
        return 0
    trainer.load_state_dict(state.trainer)
    print(f"{name}: goes on at step {state.step}/{trainer.steps}", flush=True)
    return state.step
