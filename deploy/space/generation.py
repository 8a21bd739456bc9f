"""Generates images with and without a LoRA, step by step, so that a page can show how far it is and cancel. Knows no
page."""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from predict import Runner

Inputs = Mapping[str, Any]  # of Runner.run
WITHOUT, WITH = "without", "with"  # the LoRA


class GenerationCancelledError(Exception):
    """The page does not want the image any more."""


@dataclass(frozen=True, slots=True)
class Step:
    """A denoising step has begun."""

    image: str  # WITHOUT or WITH
    number: int  # from 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """The contents of both files, which the predictor deletes at its next request."""

    before: bytes  # without the LoRA
    after: bytes
    suffix: str  # of the files, such as .webp


class Comparer:
    """Generates one comparison at a time with a predictor."""

    def __init__(self, runner: Runner) -> None:
        """`runner` is set up."""
        self._runner, self._lock = runner, threading.Lock()

    def compare(self, inputs: Inputs) -> Iterator[Step | Comparison]:
        """Generate an image without the LoRA and one with it, and yield the steps, then both files.

        Closing the iterator ends the generation at its next step. Raises what `Runner.generate` raises.
        """
        with self._lock:  # a generation that was cancelled ends before the next one starts
            before = (yield from self._generate(WITHOUT, {**inputs, "lora_scale": 0.0})).read_bytes()
            file = yield from self._generate(WITH, inputs)
            yield Comparison(before, file.read_bytes(), file.suffix)

    def _generate(self, image: str, inputs: Inputs) -> Generator[Step, None, Path]:
        """Generate one image in a thread of its own, and yield its steps."""
        steps: SimpleQueue[bool] = SimpleQueue()  # False: there are no more
        is_closed, number = threading.Event(), 0

        def before_step() -> None:
            if is_closed.is_set():
                raise GenerationCancelledError
            steps.put(True)

        with self._called_before_steps(before_step), ThreadPoolExecutor(1) as executor:
            try:
                result = executor.submit(self._runner.generate, inputs)
                result.add_done_callback(lambda _: steps.put(False))
                while steps.get():
                    number += 1
                    yield Step(image, number)
                return result.result()[0]
            finally:
                is_closed.set()  # and the executor waits for its thread

    @contextmanager
    def _called_before_steps(self, function: Callable[[], None]) -> Iterator[None]:
        """Inside the `with` block, in which one image is generated, this is called before each denoising step: a step
        calls the transformer at its own timestep, twice with classifier-free guidance."""
        transformer = self._runner.models.model(self._runner.base.path).pipeline.transformer
        reached: set[float] = set()

        def before_call(_transformer: object, _inputs: object, named: Mapping[str, Any]) -> None:
            timestep = float(named["timestep"][0])
            if timestep not in reached:
                reached.add(timestep)
                function()

        hook = transformer.register_forward_pre_hook(before_call, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
