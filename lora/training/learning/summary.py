"""What comes of a training: the LoRA, and how the training went."""

from dataclasses import dataclass

from torch import Tensor

from lora.dataset.wording import counted
from lora.training.learning.history import StepNumbers
from lora.training.learning.validation import ValidationResult


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """How a training went."""

    exported_step: int  # the step whose weights are exported
    exported_why: str  # the reason for that
    steps_done: int
    steps_asked: int
    steps_skipped: int
    steps_preserving: int  # steps with a preservation loss
    stopped_early: str | None  # the reason to stop early, if there was one
    validation_results: tuple[ValidationResult, ...]
    steps: tuple[StepNumbers, ...]

    def line(self) -> str:
        """A line for the log."""
        done = f"after {self.steps_done} of {self.steps_asked} steps"
        early = f" The training stopped early, {done}: {self.stopped_early}." if self.stopped_early else ""
        skipped = f" {counted(self.steps_skipped, 'step')} skipped." if self.steps_skipped else ""
        preserving = f" {counted(self.steps_preserving, 'step')} with preservation." if self.steps_preserving else ""
        exported = f"The LoRA is from step {self.exported_step} of {self.steps_asked}: {self.exported_why}."
        return f"{exported}{early}{skipped}{preserving}"


@dataclass(frozen=True, slots=True)
class Usage:
    """What the steps took on this machine, which differs from run to run."""

    steps: int  # that this run took, without those of the checkpoint that it resumed from
    seconds: float  # of these steps, without validation, samples and checkpoints
    seconds_between: float  # of validation, samples and the report page, between the steps
    peak_device_bytes: int | None  # reserved by PyTorch on the GPU of the first process; None without a GPU


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The result of a training."""

    tensors: dict[str, Tensor]  # the LoRA as it is saved
    summary: TrainingSummary
    usage: Usage
