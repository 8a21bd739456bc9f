"""Ways to apply LoRAs, which the serving benchmarks compare: ours, and those of diffusers and PEFT."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from diffusers import DiffusionPipeline
from peft.tuners.lora import LoraLayer

from lora.base.device import device
from lora.families.registry import family_of_model
from lora.serving.compiled import compile_for_all_sizes
from lora.serving.int8_transformer import Int8Transformer
from lora.serving.lora_cache import LoraCache
from lora.serving.lora_merger import AppliedLora, LoraMerger
from weights.local_files import EVERYWHERE
from weights.references import open_lora


class LoraApplier(Protocol):
    """A way to apply LoRAs."""

    pipeline: DiffusionPipeline

    def apply(self, scales: dict[Path, float]) -> None:
        """Apply these files at these scales, and no others; includes all preparation for generating an image."""

    def computing(self) -> AbstractContextManager[None]:
        """The autograd mode in which the pipeline generates: in another one, compiled blocks are compiled again."""

    def generating(self) -> AbstractContextManager[None]:
        """A context in which the pipeline generates with these LoRAs."""


class Ours:
    """As in the predictor: blocks are compiled on a GPU; files that were read are cached, and checked for changes."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.pipeline = pipeline
        if device().type == "cuda":
            compile_for_all_sizes(pipeline, log_line=print)
        self._merger = LoraMerger(pipeline)
        self._lora_cache = LoraCache()

    def apply(self, scales: dict[Path, float]) -> None:
        """Apply through the reference grammar, the LoRA cache and the merger."""
        self._merger.apply([self._load_lora(path, scale) for path, scale in scales.items()])

    def computing(self) -> AbstractContextManager[None]:
        """The predictor's mode."""
        return torch.inference_mode()

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Generate with the LoRAs merged into the weights."""
        with self.computing():
            yield

    def _load_lora(self, path: Path, scale: float) -> AppliedLora:
        with open_lora(str(path), named="lora_weights", readable=EVERYWHERE) as file:
            cached = self._lora_cache.lora(file.cache_key, file.read, family_of_model(self.pipeline).layer_names)
        return AppliedLora(cached.digest, cached.lora, scale, file.named)


class OursFast(Ours):
    """The predictor with go_fast."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        super().__init__(pipeline)
        self._fast = Int8Transformer(pipeline, self._merger, log_line=lambda _: None)

    def apply(self, scales: dict[Path, float]) -> None:
        """Apply, and quantize the changed weights."""
        super().apply(scales)
        with self._fast.enabled():
            pass

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Generate in 8 bits."""
        with self._fast.enabled(), self.computing():
            yield


class Stock:
    """LoRAs as adapters, as diffusers documents it."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.pipeline = pipeline
        self._applied: list[Path] = []

    def apply(self, scales: dict[Path, float]) -> None:
        """Load adapters; those of the same files stay, with new scales."""
        if list(scales) != self._applied:
            self.pipeline.unload_lora_weights()
            for path in scales:
                self.pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=path.stem)
            self._applied = list(scales)
        if scales:
            self.pipeline.set_adapters([path.stem for path in scales], list(scales.values()))

    def computing(self) -> AbstractContextManager[None]:
        """The mode that diffusers' pipelines set."""
        return torch.no_grad()

    def generating(self) -> AbstractContextManager[None]:
        """Nothing to prepare."""
        return nullcontext()


class Hotswap(Stock):
    """Hotswapping, as diffusers documents it for compiled models: one adapter, whose tensors are replaced by those of
    another file.

    On a CPU nothing is compiled. Applies a single LoRA; the first must have all layers that later ones have.
    """

    ADAPTER = "hotswapped"

    def __init__(self, pipeline: DiffusionPipeline, *, most_rank: int) -> None:
        super().__init__(pipeline)
        pipeline.enable_lora_hotswap(target_rank=most_rank)

    def apply(self, scales: dict[Path, float]) -> None:
        """Apply a LoRA, and compile after the first."""
        ((path, scale),) = scales.items()
        is_first = not self._applied
        if self._applied != [path]:
            name, folder = path.name, str(path.parent)
            self.pipeline.load_lora_weights(folder, weight_name=name, adapter_name=self.ADAPTER, hotswap=not is_first)
            self._applied = [path]
        for module in self.pipeline.transformer.modules():
            if isinstance(module, LoraLayer) and self.ADAPTER in module.scaling:
                # for files without alpha; `set_adapters` would replace the tensor by a number, which compiles again
                module.scaling[self.ADAPTER].fill_(scale)
        if is_first and self.pipeline.transformer.device.type == "cuda":
            self.pipeline.transformer.compile_repeated_blocks(fullgraph=True)
