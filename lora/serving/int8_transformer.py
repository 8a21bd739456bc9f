"""The transformer in 8 bits, for requests that go fast: rounded from the plain one as it is dressed. Knows no LoRA.

What is worn is rounded together with the weights that it was added to, so it keeps its full strength; and the same
weights are the same codes, whatever was worn before.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import nn

from lora.engine.int8 import W8A8Linear
from lora.engine.streaming import streams
from lora.serving.compiled import compile_for_all_sizes
from lora.serving.lora_merger import LoraMerger
from lora.serving.progress import Say

# These multiply every token of text and image: nearly all of the work. The others see the timestep and the prompt as a
# whole, or are the way in and out: little work, and much quality if rounded.
PER_TOKEN = re.compile(
    r"transformer_blocks\.\d+\.(attn|ff|ff_context)\..+"
    r"|single_transformer_blocks\.\d+\.(attn\..+|proj_mlp|proj_out)"
)


class Int8Transformer:
    """Draws in the place of a pipeline's transformer. Wherever a call is interrupted, the next one finds its way."""

    def __init__(self, pipeline: FluxPipeline, merger: LoraMerger, *, say: Say) -> None:
        """For the pipeline that `merger` dresses, with its own transformer. `say` is told before what takes long."""
        self._pipeline = pipeline
        self._plain: FluxTransformer2DModel = pipeline.transformer
        self._merger = merger
        self._say = say
        self._rounded: dict[str, int] = {}  # by layer: how often it had been written when it was rounded

    @contextmanager
    def enabled(self) -> Iterator[None]:
        """The pipeline draws in 8 bits, wearing what it wears as this begins.

        Raises ValueError with one sentence if the model's layers are not of sizes that a GPU multiplies in 8 bits.
        """
        self._round()
        with self._drawn_by(self._fast):
            yield

    @cached_property
    def _fast(self) -> FluxTransformer2DModel:
        """Made when first asked for: who never goes fast spends no memory on it."""
        fast = build_int8_transformer(self._plain)
        if fast.device.type == "cuda":
            self._say("go_fast: compiling, once for all sizes of images")
            with self._drawn_by(fast):
                compile_for_all_sizes(self._pipeline, say=self._say)
        return fast

    @contextmanager
    def _drawn_by(self, transformer: FluxTransformer2DModel) -> Iterator[None]:
        try:
            self._pipeline.transformer = transformer
            yield
        finally:
            self._pipeline.transformer = self._plain

    def _round(self) -> None:
        """Round the layers that were written since they were last rounded; the first time, all of them."""
        for name, layer in int8_layers(self._fast).items():
            writes = self._merger.writes[f"transformer.{name}"]
            if self._rounded.get(name) != writes:
                weight = self._plain.get_submodule(name).weight
                layer.hold(weight, device=weight.device, dtype=weight.dtype)
                self._rounded[name] = writes


def build_int8_transformer(plain: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """The same model with 8-bit layers, which hold no weights yet; all else are the parameters of `plain` themselves.

    Raises ValueError with one sentence if a layer's sizes are not such as a GPU multiplies in 8 bits, or if layers have
    their weights in host memory.
    """
    if any(map(streams, plain.modules())):
        raise ValueError("go_fast is true, for which the GPU has no memory beside the model: expected false")
    with torch.device("meta"):
        fast = FluxTransformer2DModel.from_config(plain.config)
    for name, module in plain.named_modules():
        if PER_TOKEN.fullmatch(name) and isinstance(module, nn.Linear):
            fast.set_submodule(name, W8A8Linear(module, dtype=module.weight.dtype))
        else:
            for key, parameter in module.named_parameters(recurse=False):
                fast.get_submodule(name).register_parameter(key, parameter)
    return fast.eval()


def int8_layers(fast: FluxTransformer2DModel) -> dict[str, W8A8Linear]:
    """The layers that multiply in 8 bits, by name."""
    return {name: module for name, module in fast.named_modules() if isinstance(module, W8A8Linear)}
