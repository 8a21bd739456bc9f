"""The loaded base models, each with its applied LoRAs. Knows folders, not which base models there are."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import psutil
import torch
from PIL import Image

from lora.base.device import device, free_memory, precision
from lora.engine.options import Engine, chosen_engine
from lora.engine.streaming import is_streamed
from lora.families.loading import load_pipeline
from lora.families.placement import GENERATION_BYTES, bytes_of_components
from lora.serving.compiled import compile_for_all_sizes
from lora.serving.generation import generate
from lora.serving.int8_transformer import Int8Transformer
from lora.serving.lora_merger import AppliedLora, LoraMerger
from lora.serving.progress import LogLine, Progress
from lora.serving.prompts import Prompts, encode_prompts
from lora.serving.reference_images import ReferenceImage
from lora.serving.request import Request
from lora.serving.sources import Source
from lora.serving.usage import Usage


class Model:
    """A loaded base model that generates images."""

    def __init__(self, path: Path, engine: Engine, log_line: LogLine) -> None:
        """Load the base model in a folder; `log_line` receives the progress of requests, and a line before a step that
        takes long. Raises what `load_pipeline` raises."""
        self.pipeline = load_pipeline(path)
        if engine == "fast" and device().type == "cuda":  # on a CPU it takes longer than it saves
            log_line("compiling once for all image sizes")
            compile_for_all_sizes(self.pipeline, log_line=log_line)
        self._plain = self.pipeline.transformer
        self._merger = LoraMerger(self.pipeline)
        self._prompts = Prompts(self.pipeline)
        self._log_line = log_line
        self._fast = self._new_int8_transformer()

    @property
    def is_intact(self) -> bool:
        """Whether the weights that were loaded were restored exactly each time that LoRAs were removed."""
        return self._merger.is_intact

    @property
    def streams(self) -> bool:
        """Whether weights are streamed from host memory, which leaves no memory for go_fast."""
        return any(map(is_streamed, self._plain.modules()))

    def apply(self, loras: Sequence[AppliedLora]) -> None:
        """Apply these LoRAs and remove all others. Raises ValueError if a LoRA is incompatible with this base model."""
        self._merger.apply(loras)

    def generate(
        self,
        request: Request,
        source: Source | None,
        loras: Sequence[AppliedLora],
        usage: Usage | None = None,
        *,
        references: Sequence[ReferenceImage] = (),
    ) -> Iterator[Image.Image]:
        """Yield the images of a request, one at a time, with these LoRAs applied and no others; count it in `usage`.

        Raises ValueError if a LoRA is incompatible with this base model. Raises RuntimeError if an image has NaN or
        infinite pixels, or if the GPU runs out of memory; that releases the int8 transformer, so the next request has
        more memory.
        """
        usage, progress = usage or Usage(), Progress(self._log_line, images=request.num_outputs)
        try:
            self.pipeline.transformer = self._plain  # a cancel may have left the int8 transformer in its place
            with usage.on_loras():
                self.apply(loras)
            with usage.on_images():
                encode = partial(self._prompts.encode, applied=self._merger.on_text_encoders)
                prompts = encode_prompts(self.pipeline, request, encode)
                with self._fast.enabled() if request.go_fast else nullcontext():
                    yield from generate(
                        self.pipeline, request, source, references=references, prompts=prompts, progress=progress
                    )
            usage.steps += progress.done
        except FloatingPointError as error:
            raise RuntimeError(_non_finite_sentence(loras, go_fast=request.go_fast)) from error
        except torch.OutOfMemoryError as error:
            self._fast = self._new_int8_transformer()  # the old one holds a copy of the model in int8
            free_memory()
            remedies = ["a smaller image", *(["fewer or smaller reference images"] if references else [])]
            wanted = ", or ".join([*remedies, *(["go_fast false"] if request.go_fast else [])])
            raise RuntimeError(f"the GPU ran out of memory for this request: expected {wanted}") from error

    def _new_int8_transformer(self) -> Int8Transformer:
        return Int8Transformer(self.pipeline, self._merger, log_line=self._log_line)


class Models:
    """Keeps base models loaded, until there is not enough memory for another."""

    def __init__(self, log_line: LogLine) -> None:
        """`log_line` is passed to each model. Raises ValueError if the environment names an unknown engine."""
        self._engine, self._log_line = chosen_engine(), log_line
        self._loaded: dict[Path, Model] = {}

    @property
    def are_intact(self) -> bool:
        """Whether all loaded models are intact."""
        return all(model.is_intact for model in self._loaded.values())

    def model(self, path: Path) -> Model:
        """Return the base model in a folder. If it must be loaded and there is not enough memory beside the others,
        they are freed first. Raises what `load_pipeline` raises."""
        if path not in self._loaded:
            if _free_bytes() < sum(bytes_of_components(path, precision()).values()) + GENERATION_BYTES:
                self._loaded.clear()
                free_memory()
            self._loaded[path] = Model(path, self._engine, self._log_line)
        return self._loaded[path]


def _non_finite_sentence(loras: Sequence[AppliedLora], *, go_fast: bool) -> str:
    """Name what took part in an image with NaN or infinite pixels, and what to change."""
    applied = [f"{lora.named} at scale {lora.scale:g}" for lora in loras if lora.scale]
    cause = " with ".join(applied) or "the base model without a LoRA"
    remedy = "a scale nearer to 0, or a LoRA that is not damaged" if applied else "undamaged weights"
    if go_fast:
        cause, remedy = f"{cause} and go_fast", f"go_fast false, {'' if applied else 'or '}{remedy}"
    return f"{cause} generates NaN or infinite pixels, a black image: expected {remedy}"


def _free_bytes() -> int:
    where = device()
    return torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else psutil.virtual_memory().available
