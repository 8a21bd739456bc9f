"""The trainer: takes the steps of a training, from its first step or a checkpoint, and returns the LoRA to export.

Between the steps it validates, generates samples and saves checkpoints, and it may be ended at any moment. Knows
neither the origin of data and weights nor what happens to the LoRA.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers.models.modeling_utils import ModelMixin

from lora.base.transformer import embedder_weight
from lora.dataset.encoding import Example
from lora.dataset.wording import counted
from lora.training.checkpoints.files import Checkpoint
from lora.training.checkpoints.store import CheckpointStore, best_beside
from lora.training.learning.adapter import lora_tensors
from lora.training.learning.batches import Batches
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.history import History, curves
from lora.training.learning.live_page import LivePage
from lora.training.learning.loop import Step, take_step
from lora.training.learning.preservation import Preservation
from lora.training.learning.samples import SampleGenerator
from lora.training.learning.saving import CheckpointSaver, Contents
from lora.training.learning.state import TrainingState
from lora.training.learning.summary import TrainingResult, TrainingSummary, Usage
from lora.training.learning.validation import (
    CheckpointSelection,
    ValidationResult,
    read_results,
    select_checkpoint,
    validate,
    validation_steps,
)
from lora.training.progress import Log, Progress, throttle
from lora.training.recipe.recipe import Recipe
from lora.training.stop import Stop, StopRequestedError

MAX_SKIPPED_IN_A_ROW = 20  # steps that are not finite, after which a training counts as diverged; our choice
SAMPLES = "samples"  # a group of tensors in a checkpoint
STOPPED_ELSEWHERE = "another process of the training was asked to stop"


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often checkpoints are saved and samples are generated, in steps."""

    checkpoint_every: int
    sample_every: int  # 0 generates samples only before and after the training


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What is done besides the steps: validation, samples, preservation and checkpoints."""

    schedule: Schedule
    held_out: tuple[Example, ...]  # for validation; empty without it
    sample_generator: SampleGenerator | None
    preservation: Preservation | None
    store: CheckpointStore
    page: LivePage | None


class Trainer:
    """Runs one training on one transformer."""

    def __init__(
        self,
        transformer: ModelMixin,
        batches: Batches,
        recipe: Recipe,
        callbacks: Callbacks,
        *,
        process_group: SingleProcess,
        log: Log,
        stop: Stop,
    ) -> None:
        self._transformer, self._batches, self._recipe = transformer, batches, recipe
        self._schedule, self._store = callbacks.schedule, callbacks.store
        self._held_out, self._sample_generator = callbacks.held_out, callbacks.sample_generator
        self._preservation = callbacks.preservation
        self._process_group, self._log, self._stop = process_group, log, stop
        self._state = TrainingState(transformer, recipe)
        self._validation_results: list[ValidationResult] = []
        self._history = History()
        self._initial_checkpoint: Checkpoint | None = None
        self._saver = CheckpointSaver(callbacks.store, log, every=callbacks.schedule.checkpoint_every)
        self._page, self._is_first_process = callbacks.page, process_group.rank == 0
        self._steps_taken, self._seconds, self._seconds_between = 0, 0.0, 0.0

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Load the state of a checkpoint. Raises ValueError if it is of another training."""
        tensors = {name: checkpoint.tensors(name) for name in ("lora", "average", "optimizer")}
        values, self._initial_checkpoint = checkpoint.values, checkpoint
        try:
            self._state.restore(tensors, values)
            self._validation_results = read_results(values.get("validation_results", []))
            self._history.restore(values.get("history", []))
            if self._sample_generator is not None and SAMPLES in checkpoint.names:
                self._sample_generator.restore(checkpoint.tensors(SAMPLES))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"checkpoint {checkpoint.folder.name!r} has no valid training state ({error})") from error
        self._saver.saved_step = self._state.step
        best = best_beside(checkpoint)
        if best is not None and self._is_first_process:
            self._saver.save_best(best.step, best.tensors("average"), best.values)

    def run(self) -> str | None:
        """Train to the last step, and return None, or the reason for an early stop. However the training ends, also by
        an error or by cancellation, it leaves a checkpoint.

        Raises StopRequestedError if it is stopped before its first step.
        """
        state = self._state
        with self._save_at_end():
            self._validate_and_sample(is_first=state.step == 0)
            stopped = self._generate_neutral_images()
            progress = Progress(self._log, steps=self._recipe.steps)
            while state.step < self._recipe.steps and stopped is None:
                began = time.monotonic()
                step = take_step(
                    self._transformer,
                    state,
                    self._batches,
                    self._recipe,
                    process_group=self._process_group,
                    preservation=self._preservation,
                    should_stop=lambda: self._stop.reason() is not None,
                )
                self._report_step(step, progress, time.monotonic() - began)
                stopped = self._reason_to_stop(step)
                if stopped is None:
                    self._validate_and_sample(is_first=False)
                    if self._is_first_process:
                        self._saver.save_if_due(state, self._checkpoint)
        return stopped

    def _generate_neutral_images(self) -> str | None:
        """Generate the images for preservation; if the training is stopped during that, return the reason, or raise
        StopRequestedError if it has no finished step yet."""
        preservation, steps = self._preservation, range(self._state.step, self._recipe.steps)
        count = 0 if preservation is None else len(preservation.images_for(steps))
        if preservation is None or count == 0:
            return None
        images, began = counted(count, "image"), time.monotonic()
        self._report(f"preservation: generating {images} of neutral prompts with the base")
        report = throttle(self._report)
        if preservation.generate(self._process_group, steps=steps, stop=self._stop, report=report):
            self._report(f"preservation: generated {images} in {time.monotonic() - began:.0f} s")
            return None
        reason = self._stop.reason() or STOPPED_ELSEWHERE
        if self._state.step == 0:
            raise StopRequestedError(f"the training stopped: {reason}")
        return reason

    def _report(self, line: str) -> None:
        if self._is_first_process:
            self._log.write(line)

    def _report_step(self, step: Step, progress: Progress, seconds: float) -> None:
        numbers = self._history.add(self._state.step, step)
        self._steps_taken, self._seconds = self._steps_taken + 1, self._seconds + seconds
        if self._is_first_process and step.is_finite:
            progress.report(numbers, seconds)
            self._log.numbers(self._state.step, curves(numbers))
        elif self._state.skipped_in_a_row == 1:
            self._report(f"step {self._state.step}: loss or gradients are NaN or infinite, skipping the step")

    def _reason_to_stop(self, step: Step) -> str | None:
        if self._state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            return f"diverged: {MAX_SKIPPED_IN_A_ROW} steps in a row, up to {self._state.step}, were not finite"
        if step.is_stop_requested and self._state.step < self._recipe.steps:
            return self._stop.reason() or STOPPED_ELSEWHERE
        return None

    def _validate_and_sample(self, *, is_first: bool) -> None:
        """Validate and generate samples if they are due, with the averaged weights, which would be exported."""
        step, steps = self._state.step, self._recipe.steps
        every = self._schedule.sample_every or steps
        is_validated = bool(self._held_out) and step in validation_steps(steps)
        is_sampled = self._sample_generator is not None and (is_first or step == steps or step % every == 0)
        if not self._is_first_process or not (is_validated or is_sampled) or (step == 0 and not is_first):
            return
        began = time.monotonic()
        with self._state.averaged():
            if is_validated and not any(known.step == step for known in self._validation_results):
                self._validate(step)
            if is_sampled and self._sample_generator is not None:
                self._generate_samples(self._sample_generator, step)
        if self._page is not None:
            self._page.write(self._history.steps, self._validation_results)
        self._seconds_between += time.monotonic() - began

    def _validate(self, step: int) -> None:
        result = validate(self._transformer, self._held_out, step=step, batch_size=self._recipe.batch_size)
        best = min((known.mean for known in self._validation_results if known.step), default=None)
        self._validation_results.append(result)
        first = self._validation_results[0].mean
        count = counted(len(self._held_out), "held out image")
        ratio = f", {result.mean / first:.3f} times the loss before training" if step else ""
        self._log.numbers(step, {"validation_loss": result.mean})
        self._log.write(f"step {step}: validation loss {result.mean:.4f} on {count}{ratio}")
        if step and (best is None or result.mean < best):
            self._saver.save_best(step, self._state.average_tensors(), {"mean": result.mean})

    def _generate_samples(self, sample_generator: SampleGenerator, step: int) -> None:
        try:
            sample_generator.generate(step, stop=self._stop)
        except StopRequestedError:
            return
        except (OSError, torch.OutOfMemoryError) as error:  # does not end the training
            self._log.write(f"step {step}: could not generate sample images: {str(error).splitlines()[0]}")
            return
        self._log.write(f"step {step}: generated sample images")
        for sample, path in sample_generator.images_of(step):
            self._log.image(step, f"samples/{sample.text}", path)

    @contextmanager
    def _save_at_end(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._state.is_consistent and self._is_first_process:
                self._saver.save(self._state, self._checkpoint, most_skipped=MAX_SKIPPED_IN_A_ROW - 1)
            if self._page is not None:  # until the LoRA is written, if it will be
                self._page.write(self._history.steps, self._validation_results, is_running=False)

    def _checkpoint(self) -> Contents:
        """What a checkpoint holds."""
        validation_results = [[result.step, result.losses] for result in self._validation_results]
        history = {"validation_results": validation_results, "history": self._history.values()}
        tensors = self._state.tensors()
        if self._sample_generator is not None:
            tensors[SAMPLES] = self._sample_generator.files()
        return tensors, {**self._state.values(), **history}

    def result(self, stopped: str | None) -> TrainingResult:
        """The LoRA to export, and a summary; `stopped` is what `run` returned. Raises RuntimeError if every step was
        skipped, or if the training diverged and there is no checkpoint to go back to."""
        state, done, skipped, steps = self._state, self._state.step, self._state.skipped, self._history.steps
        state.refuse_if_all_were_skipped()
        if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW or not state.is_finite():
            self._restore_last_checkpoint()
        selection = self._select_checkpoint()
        with state.averaged():
            tensors = lora_tensors(self._transformer)
        preserving = 0 if self._preservation is None else self._preservation.steps_before(done)
        summary = TrainingSummary(
            exported_step=selection.step,
            exported_why=selection.why,
            steps_done=done,
            steps_asked=self._recipe.steps,
            steps_skipped=skipped,
            steps_preserving=preserving,
            stopped_early=stopped,
            validation_results=tuple(self._validation_results),
            steps=steps,
        )
        usage = Usage(self._steps_taken, self._seconds, self._seconds_between, self._peak_bytes())
        return TrainingResult(tensors, summary, usage)

    def _peak_bytes(self) -> int | None:
        device = embedder_weight(self._transformer).device
        return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None

    def _select_checkpoint(self) -> CheckpointSelection:
        """Select the weights to export, and load them as the average."""
        selection, last = select_checkpoint(self._validation_results, last=self._state.step), self._state.step
        if selection.step == last:
            return selection
        best = self._store.best()
        if best is None or best.step != selection.step:
            why = f"the last, as the better one of step {selection.step} is not kept any more"
            return CheckpointSelection(last, why)
        self._state.load_average(best.tensors("average"))
        return selection

    def _restore_last_checkpoint(self) -> None:
        checkpoint = self._store.newest() or self._initial_checkpoint
        if checkpoint is None:
            rate, step = self._recipe.learning_rate, self._state.step
            found = f"the training diverged by step {step}, before its first checkpoint"
            raise RuntimeError(f"{found}: use a learning_rate lower than {rate:g}")
        self.load_checkpoint(checkpoint)
