"""Base models that are loaded, each with what it wears. Knows paths, not which models there are."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import psutil
import torch
from PIL import Image

from lora.engine.options import Engine, chosen_engine
from lora.flux.loading import device, free_memory, load_pipeline, precision
from lora.flux.placement import GENERATION_BYTES, bytes_of_components
from lora.serving.compiled import compile_for_all_sizes
from lora.serving.generation import draw
from lora.serving.int8_transformer import Int8Transformer
from lora.serving.lora_merger import AppliedLora, LoraMerger
from lora.serving.progress import Say
from lora.serving.prompts import Prompts
from lora.serving.request import Request
from lora.serving.sources import Source


class Model:
    """A base model, ready to draw."""

    def __init__(self, path: Path, engine: Engine, say: Say) -> None:
        """The base in this folder; `say` is told how far a request is, and what takes long."""
        self.pipeline = load_pipeline(path)
        if engine == "fast" and device().type == "cuda":  # on a CPU it takes longer than it saves
            say("compiling, once for all sizes of images")
            compile_for_all_sizes(self.pipeline, say=say)
        self._plain = self.pipeline.transformer
        self._merger = LoraMerger(self.pipeline)
        self._prompts = Prompts(self.pipeline)
        self._say = say
        self._fast = self._new_fast()

    @property
    def is_intact(self) -> bool:
        """Whether the base has always come back as it was loaded, whatever was worn."""
        return self._merger.is_intact

    def wear(self, outfit: Sequence[AppliedLora]) -> None:
        """Wear these LoRAs and no others. Raises ValueError if one does not fit this base."""
        self._merger.wear(outfit)

    def draw(self, request: Request, source: Source | None, outfit: Sequence[AppliedLora]) -> Iterator[Image.Image]:
        """The images of a request, one by one, wearing these LoRAs and no others.

        Raises ValueError if a LoRA does not fit this base, RuntimeError if the memory does not suffice; the next
        request finds more of it then.
        """
        try:
            self.pipeline.transformer = self._plain  # a cancel may have come as the fast one was taken out
            self.wear(outfit)
            prompt = self._prompts.encode(request.prompt, worn=self._merger.on_text_encoders)
            with self._fast.enabled() if request.go_fast else nullcontext():
                yield from draw(self.pipeline, request, source, prompt=prompt, say=self._say)
        except torch.OutOfMemoryError as error:
            self._fast = self._new_fast()  # the old one holds the model once more, in 8 bits
            free_memory()
            wanted = f"a smaller image{', or go_fast false' if request.go_fast else ''}"
            raise RuntimeError(f"the GPU's memory does not suffice for this request: expected {wanted}") from error

    def _new_fast(self) -> Int8Transformer:
        return Int8Transformer(self.pipeline, self._merger, say=self._say)


class Models:
    """Keeps those that were drawn with, as long as there is memory for another."""

    def __init__(self, say: Say) -> None:
        """`say` is that of each of them. Raises ValueError if the environment asks for an engine that nobody knows."""
        self._engine, self._say = chosen_engine(), say
        self._loaded: dict[Path, Model] = {}

    @property
    def are_intact(self) -> bool:
        """Whether all of them are."""
        return all(model.is_intact for model in self._loaded.values())

    def model(self, path: Path) -> Model:
        """The base in this folder, loaded if it is not yet."""
        if path not in self._loaded:
            if _free_bytes() < sum(bytes_of_components(path, precision()).values()) + GENERATION_BYTES:
                self._loaded.clear()
                free_memory()
            self._loaded[path] = Model(path, self._engine, self._say)
        return self._loaded[path]


def _free_bytes() -> int:
    where = device()
    return torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else psutil.virtual_memory().available
