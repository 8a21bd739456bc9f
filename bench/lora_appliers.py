"""Ways to wear LoRAs, which the serving benchmarks compare: ours, and those of diffusers and PEFT."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from diffusers import FluxPipeline
from peft.tuners.lora import LoraLayer

from lora.flux.loading import device
from lora.serving.compiled import compile_for_all_sizes
from lora.serving.int8_transformer import Int8Transformer
from lora.serving.lora_cache import LoraCache
from lora.serving.lora_merger import AppliedLora, LoraMerger
from weights.references import open_lora


class LoraApplier(Protocol):
    """A way to wear LoRAs."""

    pipeline: FluxPipeline

    def wear(self, scales: dict[Path, float]) -> None:
        """Wear these files at these strengths, and nothing else; all that has to be done before a picture."""

    def drawing(self) -> AbstractContextManager[None]:
        """The pipeline draws as this one does."""


class Ours:
    """As the predictor does: blocks are compiled on a GPU; it keeps what it read, and looks whether the file is still
    the same."""

    def __init__(self, pipeline: FluxPipeline) -> None:
        self.pipeline = pipeline
        if device().type == "cuda":
            compile_for_all_sizes(pipeline, say=print)
        self._merger = LoraMerger(pipeline)
        self._lora_cache = LoraCache()

    def wear(self, scales: dict[Path, float]) -> None:
        """Through the reference grammar, the lora_cache and the merger."""
        self._merger.wear([self._worn(path, scale) for path, scale in scales.items()])

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """With the LoRAs in the weights."""
        with torch.inference_mode():
            yield

    def _worn(self, path: Path, scale: float) -> AppliedLora:
        with open_lora(str(path), named="lora_weights") as file:
            kept = self._lora_cache.lora(file.stamp, file.read)
        return AppliedLora(kept.digest, kept.lora, scale, file.named)


class OursFast(Ours):
    """The same with go_fast."""

    def __init__(self, pipeline: FluxPipeline) -> None:
        super().__init__(pipeline)
        self._fast = Int8Transformer(pipeline, self._merger, say=lambda _: None)

    def wear(self, scales: dict[Path, float]) -> None:
        """And round what has changed."""
        super().wear(scales)
        with self._fast.enabled():
            pass

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """In 8 bits."""
        with self._fast.enabled(), torch.inference_mode():
            yield


class Stock:
    """As diffusers documents it."""

    def __init__(self, pipeline: FluxPipeline) -> None:
        self.pipeline = pipeline
        self._worn: list[Path] = []

    def wear(self, scales: dict[Path, float]) -> None:
        """Adapters of the same files stay, and get new scales."""
        if list(scales) != self._worn:
            self.pipeline.unload_lora_weights()
            for path in scales:
                self.pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=path.stem)
            self._worn = list(scales)
        if scales:
            self.pipeline.set_adapters([path.stem for path in scales], list(scales.values()))

    def drawing(self) -> AbstractContextManager[None]:
        """As it is."""
        return nullcontext()


class Hotswap(Stock):
    """As diffusers documents it for compiled models: one adapter, whose tensors are replaced by those of another file.

    On a CPU nothing is compiled. Wears one LoRA, of which the first has all layers that later ones have.
    """

    ADAPTER = "worn"

    def __init__(self, pipeline: FluxPipeline, *, most_rank: int) -> None:
        super().__init__(pipeline)
        pipeline.enable_lora_hotswap(target_rank=most_rank)

    def wear(self, scales: dict[Path, float]) -> None:
        """Compile when the first is worn."""
        ((path, scale),) = scales.items()
        is_first = not self._worn
        if self._worn != [path]:
            name, folder = path.name, str(path.parent)
            self.pipeline.load_lora_weights(folder, weight_name=name, adapter_name=self.ADAPTER, hotswap=not is_first)
            self._worn = [path]
        for module in self.pipeline.transformer.modules():
            if isinstance(module, LoraLayer) and self.ADAPTER in module.scaling:
                # of files without alpha; `set_adapters` would put a number in the tensor's place, to be compiled anew
                module.scaling[self.ADAPTER].fill_(scale)
        if is_first and self.pipeline.transformer.device.type == "cuda":
            self.pipeline.transformer.compile_repeated_blocks(fullgraph=True)
