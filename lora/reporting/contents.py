"""What the report page of a training shows, as plain values that a process can hand to another as JSON."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Base64Bytes, TypeAdapter


@dataclass(frozen=True, slots=True)
class TrainedImage:
    """An image of the data set, as trained."""

    name: str  # in the archive
    prompt: str
    size: str  # of the file
    trained_at: str  # its sizes in training
    is_held_out: bool
    notes: tuple[str, ...]  # what was flagged
    thumbnail: Base64Bytes | None  # JPEG; None for images beyond the first ones


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: what was asked for, what was chosen, and why."""

    name: str
    asked: str
    chosen: str


@dataclass(frozen=True, slots=True)
class Base:
    """The base model, as the page and its snippets name it."""

    name: str
    program: str  # Python that generates an image with the LoRA
    licence: str  # short name
    notice: str


@dataclass(frozen=True, slots=True)
class Fixed:
    """What is known before the first step."""

    trigger_word: str
    base: Base
    steps: int
    images: tuple[TrainedImage, ...]
    warnings: tuple[str, ...]  # about the data set
    settings: tuple[Setting, ...]
    reasons: tuple[str, ...]  # for the choices
    edits: bool = False  # whether the LoRA edits images that are given


@dataclass(frozen=True, slots=True)
class Point:
    """The loss of a step."""

    step: int
    loss: float | None
    smoothed: float | None


@dataclass(frozen=True, slots=True)
class Validation:
    """The mean loss on the held-out images at a step."""

    step: int
    loss: float


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample image."""

    prompt: str
    seed: int
    step: int
    path: Path
    references: tuple[Path, ...] = ()  # pictures that it was generated beside


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a training."""

    exported_step: int
    summary: str  # in a sentence or more


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that the page shows."""

    fixed: Fixed
    points: tuple[Point, ...]
    validations: tuple[Validation, ...]
    samples: tuple[Sample, ...]
    outcome: Outcome | None  # None while it trains, and if it ended without a LoRA
    is_running: bool

    @property
    def validation_shown(self) -> Validation | None:
        """The validation of the step that the LoRA is from, or the last one."""
        exported = self.outcome.exported_step if self.outcome else None
        of_result = (each for each in self.validations if each.step == exported)
        return next(of_result, self.validations[-1] if self.validations else None)


FIXED = TypeAdapter(Fixed)


def example_prompt(trigger_word: str, *, edits: bool) -> str:
    """A prompt for the snippets of the page; an instruction if the LoRA edits images."""
    if edits:
        return f"{trigger_word} your instruction".lstrip()
    return f"a photo of {trigger_word}" if trigger_word else "your prompt"
