"""The captions of images that have none: asks a captioner, where one is installed, before anything else is loaded.

An image without a usable answer is trained with the trigger word alone, and named. The captioner is freed at the end.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from lora.base.device import device, free_memory
from lora.captioning.answer_store import AnswerStore
from lora.captioning.captioner import Captioner, check_class
from lora.captioning.describing import ask, described, uncaptioned
from lora.captioning.instructions import INSTRUCTIONS
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.wording import counted, named
from lora.engine.out_of_memory import is_out_of_memory
from lora.families.placement import parameter_count
from lora.host_memory import free_host_bytes
from lora.training.memory.captioner import ON_HOST, CaptionerPlacement, captioner_placements
from lora.training.memory.configurations import GB
from lora.training.progress import throttle
from lora.training.recipe.config import TrainConfig

INSTALL = "`script/download captioner` installs one, which describes them"
LogLines = Callable[[str], object]


class FoundCaptioner(Protocol):
    """A captioner whose files are checked (weights/captioner.py)."""

    @property
    def path(self) -> Path:
        """Its folder."""

    @property
    def name(self) -> str:
        """What the log and the report call it."""

    @property
    def on_cpu(self) -> bool:
        """Whether the deployment wants it on the CPU."""


@dataclass(frozen=True, slots=True)
class Captioning:
    """What describes images of a job, and what can end that early."""

    find: Callable[[], FoundCaptioner | None]  # called only if an image needs it
    check: Callable[[], None]  # raises an exception if there is a reason to stop


def with_captions(dataset: Dataset, config: TrainConfig, captioning: Captioning, log_line: LogLines) -> Dataset:
    """The data set with captions by a captioner for the images that have none, if `autocaption` asks for them.

    Raises ValueError and FileNotFoundError with one sentence for a captioner that cannot be used, and what
    `captioning.check` raises. Memory that runs out is no error: the images stay without a caption then.
    """
    count, total = sum(image.caption is None for image in dataset.images), len(dataset.images)
    if not (config.public_trainer.autocaption and count):
        return dataset
    if config.has_references:
        log_line(
            f"autocaption: {count} of {total} images have no caption; for lora_type {config.lora_type} a caption is"
            " the instruction, which no captioner can know"
        )
        return dataset
    found, alone = captioning.find(), _instead(config)
    if found is None:
        log_line(
            f"autocaption: no captioner is installed; {count} of {total} images have no caption, {alone}; {INSTALL}"
        )
        return dataset
    began = time.monotonic()
    check_class(found.path)
    run = CaptionerRun(found, INSTRUCTIONS[config.lora_type], captioning.check, log_line)
    images = [image for image in uncaptioned(dataset) if not run.knows(image)]
    failures = {}
    if images:
        log_line(f"autocaption: {found.name} describes {counted(len(images), 'image')} of {total}")
        failures = run.ask(images, _placements(found, log_line))
    result = described(dataset, run.store, failures, name=found.name, rule=config.prompt_rule)
    known = len(uncaptioned(dataset)) - len(images)
    written = f"{counted(count - len(result.failures), 'caption')} by {found.name} in {time.monotonic() - began:.1f} s"
    log_line(f"autocaption: {written}" + (f", {known} of them known from an earlier job" if known else ""))
    if result.failures:
        log_line(f"autocaption: no caption for {named(list(result.failures))}: {alone}")
    return result.dataset


def _instead(config: TrainConfig) -> str:
    return "trained with the trigger word alone" if config.trigger_word else "trained without a trigger word or caption"


class CaptionerRun:
    """Asks a captioner what the store does not know yet, and frees the captioner."""

    def __init__(self, found: FoundCaptioner, instruction: str, check: Callable[[], None], log_line: LogLines) -> None:
        self.store = AnswerStore(found.path, instruction)
        self._found, self._instruction, self._check, self._log_line = found, instruction, check, log_line

    def knows(self, image: CaptionedImage) -> bool:
        """Whether there is an answer for an image."""
        return self.store.get(image.appearance) is not None

    def ask(self, images: Sequence[CaptionedImage], placements: Sequence[CaptionerPlacement]) -> dict[str, str]:
        """Ask about images in the first placement in which that fits into memory; return why there is no answer, by
        content."""
        failures: dict[str, str] = {}
        for placement in placements:
            left = [image for image in images if not self.knows(image)]
            is_complete = self._attempt(placement, left, failures)
            free_memory()  # only here: an error keeps the captioner's tensors alive
            if is_complete:
                return failures
        too_little = "there was not enough memory for the captioner"
        return {image.appearance: too_little for image in images if not self.knows(image)} | failures

    def _attempt(
        self, placement: CaptionerPlacement, images: Sequence[CaptionedImage], failures: dict[str, str]
    ) -> bool:
        """Whether there was enough memory to ask about all these images."""
        progress = throttle(self._log_line)
        try:
            captioner = Captioner.load(self._found.path, on=_device_of(placement), check=self._check)
            self._log_line(f"autocaption: the captioner runs {placement.line()}")
            found = ask(
                captioner,
                images,
                self._instruction,
                self.store,
                batch_size=placement.batch_size,
                check=self._check,
                report=lambda done: progress(f"autocaption: {done} of {len(images)} images are described"),
            )
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or is_out_of_memory(error)):
                raise
            self._log_line(f"autocaption: out of memory {placement.line()}")
            return False
        failures.update(found)
        return True


def _placements(found: FoundCaptioner, log_line: LogLines) -> tuple[CaptionerPlacement, ...]:
    """The placements in which a captioner is predicted to fit; none, with a line that says so, if it is too large."""
    parameters = parameter_count(found.path)
    may_use_gpu = device().type == "cuda" and not found.on_cpu
    free_gpu, free_host = _free_gpu_bytes() if may_use_gpu else 0, free_host_bytes()
    placements = captioner_placements(parameters, free_gpu_bytes=free_gpu, free_host_bytes=free_host)
    if not placements:
        log_line(
            f"autocaption: {found.name} is not used: the machine has {free_host / GB:.1f} GB of free memory, expected"
            f" {ON_HOST[0].bytes(parameters) / GB:.1f} GB; close other programs, or install a smaller one by"
            " `script/download captioner --florence`"
        )
    elif may_use_gpu and not placements[0].on_gpu:
        log_line(f"autocaption: the GPU has {free_gpu / GB:.1f} GB of free memory, too little for this captioner")
    return placements


def _device_of(placement: CaptionerPlacement) -> torch.device:
    return device() if placement.on_gpu else torch.device("cpu")


def _free_gpu_bytes() -> int:
    return torch.cuda.mem_get_info()[0]
