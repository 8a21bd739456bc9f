"""A training from its first step, or where another stopped, to the LoRA that is given away.

Knows the steps, what is done now and then between them, and that it may be ended at any moment; not where data and
weights came from, nor what becomes of the LoRA.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from lora.dataset.encoding import Example
from lora.dataset.wording import counted
from lora.training.checkpoints.files import Checkpoint
from lora.training.checkpoints.store import CheckpointStore, best_beside
from lora.training.learning.adapter import lora_tensors
from lora.training.learning.batches import Batches
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import Step, take_step
from lora.training.learning.preservation import Preservation
from lora.training.learning.samples import SampleGenerator
from lora.training.learning.state import TrainingState
from lora.training.learning.validation import CheckpointSelection, Judgement, judge, validation_steps, verdict
from lora.training.progress import Log, Progress, throttle
from lora.training.recipe.recipe import Recipe
from lora.training.stop import Stop, StopRequestedError

SECONDS_BETWEEN_CHECKPOINTS = 180.0
MOST_SKIPPED_IN_A_ROW = 20
STOPPED_ELSEWHERE = "another process of the training was asked to stop"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is done now and then, in steps."""

    checkpoint_every: int
    sample_every: int  # 0: before and after only


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What goes on beside the steps, and with what."""

    schedule: Schedule
    held_out: tuple[Example, ...]  # judged on these, if there are any
    sample_generator: SampleGenerator | None
    preservation: Preservation | None
    store: CheckpointStore


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """How a training went."""

    step: int  # whose weights were taken
    why: str  # those
    done: int  # steps done
    skipped: int
    preserved: int  # steps that preserved
    stopped: str | None  # why it ended early, if it did
    judgements: tuple[Judgement, ...]

    def line(self) -> str:
        """For a person."""
        early = f" The training stopped early: {self.stopped}." if self.stopped else ""
        skipped = f" {counted(self.skipped, 'step')} skipped." if self.skipped else ""
        preserved = f" {counted(self.preserved, 'step')} with preservation." if self.preserved else ""
        return f"The LoRA is that of step {self.step} of {self.done}: {self.why}.{early}{skipped}{preserved}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a training."""

    tensors: dict[str, Tensor]  # the LoRA as it is saved
    account: TrainingSummary


class Trainer:
    """One training on one transformer."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        batches: Batches,
        recipe: Recipe,
        meanwhile: Callbacks,
        *,
        team: SingleProcess,
        log: Log,
        stop: Stop,
    ) -> None:
        self._transformer, self._batches, self._recipe = transformer, batches, recipe
        self._schedule, self._store = meanwhile.schedule, meanwhile.store
        self._held_out, self._painter = meanwhile.held_out, meanwhile.sample_generator
        self._preservation = meanwhile.preservation
        self._team, self._log, self._stop = team, log, stop
        self._state = TrainingState(transformer, recipe)
        self._judgements: list[Judgement] = []
        self._begin: Checkpoint | None = None
        self._saved_step, self._saved_at = 0, time.monotonic()

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Become what a checkpoint holds; raises ValueError if it is of another training."""
        tensors = {name: checkpoint.tensors(name) for name in ("lora", "average", "optimizer")}
        values, self._begin = checkpoint.values, checkpoint
        try:
            self._state.restore(tensors, values)
            self._judgements = [Judgement(step, tuple(losses)) for step, losses in values["judgements"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"checkpoint {checkpoint.folder.name!r} holds no state of a training ({error})") from error
        self._saved_step = self._state.step
        best = best_beside(checkpoint)
        if best is not None and self._team.rank == 0:
            self._guarded(lambda: self._store.save_best(best.step, {"average": best.tensors("average")}, best.values))

    def run(self) -> str | None:
        """Train to the last step, or to why it ended early.

        However it ends, by its last step, by a wish to stop, by an error or by being cancelled: what was learned is in
        a checkpoint.
        """
        state = self._state
        with self._saved_at_the_end():
            self._look(is_first=state.step == 0)
            stopped = self._generate_neutral_images()
            progress = Progress(self._log, steps=self._recipe.steps)
            while state.step < self._recipe.steps and stopped is None:
                began = time.monotonic()
                step = take_step(
                    self._transformer,
                    state,
                    self._batches,
                    self._recipe,
                    team=self._team,
                    preservation=self._preservation,
                    should_stop=lambda: self._stop.reason() is not None,
                )
                self._note(step, progress, time.monotonic() - began)
                stopped = self._ended_early(step)
                if stopped is None:
                    self._look(is_first=False)
                    self._save_if_due()
        return stopped

    def _generate_neutral_images(self) -> str | None:
        """For preservation; why the training ends before they are all there, if it does.

        Raises StopRequestedError if nothing was learned before.
        """
        preservation, steps = self._preservation, self._recipe.steps
        if preservation is None or preservation.steps_before(self._state.step) == preservation.steps_before(steps):
            return None
        images, began = counted(preservation.image_count, "image"), time.monotonic()
        self._say(f"preservation: the base generates {images} of neutral prompts")
        if preservation.generate(self._team, stop=self._stop, say=throttle(self._say)):
            self._say(f"preservation: {images} generated in {time.monotonic() - began:.0f} s")
            return None
        reason = self._stop.reason() or STOPPED_ELSEWHERE
        if self._state.step == 0:
            raise StopRequestedError(f"the training stopped: {reason}")
        return reason

    def _say(self, line: str) -> None:
        if self._team.rank == 0:
            self._log.say(line)

    def _note(self, step: Step, progress: Progress, seconds: float) -> None:
        if self._team.rank == 0 and step.is_finite:
            progress.report(self._state.step, step.loss, seconds, preservation=step.preservation_loss)
        elif self._state.skipped_in_a_row == 1:
            self._say(f"step {self._state.step}: loss or gradients are not finite; the step is skipped")

    def _ended_early(self, step: Step) -> str | None:
        if self._state.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            return f"diverged: {MOST_SKIPPED_IN_A_ROW} steps in a row, up to {self._state.step}, were not finite"
        if step.is_stop_requested and self._state.step < self._recipe.steps:
            return self._stop.reason() or STOPPED_ELSEWHERE
        return None

    def _look(self, *, is_first: bool) -> None:
        """Judge and show what was learned, if it is time, with the weights that would be given away."""
        step, steps = self._state.step, self._recipe.steps
        every = self._schedule.sample_every or steps
        is_judged = bool(self._held_out) and step in validation_steps(steps)
        is_shown = self._painter is not None and (is_first or step == steps or step % every == 0)
        if self._team.rank != 0 or not (is_judged or is_shown) or (step == 0 and not is_first):
            return
        with self._state.averaged():
            if is_judged and not any(known.step == step for known in self._judgements):
                self._judge(step)
            if is_shown and self._painter is not None:
                self._show(self._painter, step)

    def _judge(self, step: int) -> None:
        judgement = judge(self._transformer, self._held_out, step=step)
        best = min((known for known in self._judgements if known.step), key=lambda known: known.mean, default=None)
        self._judgements.append(judgement)
        first = self._judgements[0].mean
        count = len(self._held_out)
        ratio = f", {judgement.mean / first:.3f} times that before training" if step else ""
        self._log.say(f"step {step}: loss on {count} held out images {judgement.mean:.4f}{ratio}")
        if step and (best is None or judgement.mean < best.mean):
            self._guarded(lambda: self._store.save_best(step, self._average(), {"mean": judgement.mean}))

    def _average(self) -> dict[str, dict[str, Tensor]]:
        return {"average": self._state.average_tensors()}

    def _show(self, sample_generator: SampleGenerator, step: int) -> None:
        try:
            sample_generator.draw(step, stop=self._stop)
        except StopRequestedError:
            return
        except (OSError, torch.OutOfMemoryError) as error:  # no reason to lose the training
            self._log.say(f"step {step}: the sample prompts could not be drawn: {str(error).splitlines()[0]}")
            return
        self._log.say(f"step {step}: drew the sample prompts")

    def _save_if_due(self) -> None:
        is_due = self._state.step % self._schedule.checkpoint_every == 0
        if is_due or time.monotonic() - self._saved_at > SECONDS_BETWEEN_CHECKPOINTS:
            self._save()

    @contextmanager
    def _saved_at_the_end(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._state.is_whole:
                self._save(most_skipped=MOST_SKIPPED_IN_A_ROW - 1)

    def _save(self, *, most_skipped: int = 0) -> None:
        """Write a checkpoint, unless there is nothing new, or the training may be diverging."""
        state = self._state
        is_news = state.step != self._saved_step and state.skipped_in_a_row <= most_skipped
        if self._team.rank != 0 or not is_news or not state.is_finite():
            return
        judgements = [[judgement.step, judgement.losses] for judgement in self._judgements]
        values = {**state.values(), "judgements": judgements}
        if self._guarded(lambda: self._store.save(state.step, state.tensors(), values)):
            self._saved_step = state.step
        self._saved_at = time.monotonic()

    def _guarded(self, save: Callable[[], object]) -> bool:
        """Save; a full disk is no reason to lose the training, only its checkpoint."""
        try:
            save()
        except OSError as error:
            self._log.say(f"no checkpoint at step {self._state.step}: {error.strerror or error}")
            return False
        return True

    def result(self, stopped: str | None) -> Outcome:
        """The LoRA to give away; raises RuntimeError if the training diverged and left no checkpoint to return to."""
        state, done, skipped = self._state, self._state.step, self._state.skipped
        if state.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW or not state.is_finite():
            self._return_to_the_last_good()
        choice = self._chosen()
        with state.averaged():
            tensors = lora_tensors(self._transformer)
        preserved = 0 if self._preservation is None else self._preservation.steps_before(done)
        account = TrainingSummary(choice.step, choice.why, done, skipped, preserved, stopped, tuple(self._judgements))
        return Outcome(tensors, account)

    def _chosen(self) -> CheckpointSelection:
        """Whose weights are given away; the average becomes those."""
        choice, last = verdict(self._judgements, last=self._state.step), self._state.step
        if choice.step == last:
            return choice
        best = self._store.best()
        if best is None or best.step != choice.step:
            return CheckpointSelection(last, f"the last, as the better one of step {choice.step} is not kept any more")
        self._state.wear(best.tensors("average"))
        return choice

    def _return_to_the_last_good(self) -> None:
        checkpoint = self._store.newest() or self._begin
        if checkpoint is None:
            rate, step = f"learning_rate {self._recipe.learning_rate:g}", self._state.step
            raise RuntimeError(f"the training diverged by step {step} ({rate}), before its first checkpoint")
        self.load_checkpoint(checkpoint)
