"""The int8 transformer for requests with go_fast, quantized from the current weights of the plain one. Knows no LoRA.

LoRAs are quantized together with the weights that they are merged into, so they keep their full strength. Equal weights
give equal codes, whatever was applied before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from lora.engine.int8 import W8A8Linear
from lora.engine.streaming import is_streamed
from lora.families.registry import family_of_model
from lora.serving.compiled import compile_for_all_sizes
from lora.serving.lora_merger import LoraMerger
from lora.serving.progress import LogLine


class Int8Transformer:
    """Replaces a pipeline's transformer temporarily. Stays valid if a call is interrupted at any point."""

    def __init__(self, pipeline: DiffusionPipeline, merger: LoraMerger, *, log_line: LogLine) -> None:
        """`merger` applies the LoRAs of `pipeline`, which has its plain transformer; `log_line` receives a line before
        a step that takes long."""
        self._pipeline = pipeline
        self._plain: ModelMixin = pipeline.transformer
        self._merger = merger
        self._log_line = log_line
        self._quantized_writes: dict[str, int] = {}  # by layer: the merger's count of writes when it was quantized

    @contextmanager
    def enabled(self) -> Iterator[None]:
        """Within the block, the pipeline uses the int8 transformer, with the LoRAs that are applied at its start.

        Raises ValueError with one sentence if a GPU cannot multiply layers of these sizes in int8.
        """
        self._quantize()
        with self._use(self._fast):
            yield

    @cached_property
    def _fast(self) -> ModelMixin:
        """The int8 transformer, built at first use, so that it takes no memory without go_fast."""
        fast = build_int8_transformer(self._plain)
        if fast.device.type == "cuda":
            self._log_line("go_fast: compiling once for all image sizes")
            with self._use(fast):
                compile_for_all_sizes(self._pipeline, log_line=self._log_line)
        return fast

    @contextmanager
    def _use(self, transformer: ModelMixin) -> Iterator[None]:
        try:
            self._pipeline.transformer = transformer
            yield
        finally:
            self._pipeline.transformer = self._plain

    def _quantize(self) -> None:
        """Quantize the layers that were written since they were last quantized; the first time, all layers."""
        for name, layer in int8_layers(self._fast).items():
            writes = self._merger.writes[f"transformer.{name}"]
            if self._quantized_writes.get(name) != writes:
                weight = self._plain.get_submodule(name).weight
                layer.store_weight(weight, device=weight.device, dtype=weight.dtype)
                self._quantized_writes[name] = writes


def build_int8_transformer(plain: ModelMixin) -> ModelMixin:
    """Return the same model with int8 layers, whose weights are not stored yet; it shares all other parameters with
    `plain`.

    Raises ValueError with one sentence if a GPU cannot multiply layers of these sizes in int8, or if the weights of
    `plain` are streamed from host memory.
    """
    if any(map(is_streamed, plain.modules())):
        raise ValueError(
            "go_fast is true, but the GPU has not enough free memory for a second copy of the model in 8 bits: "
            "expected false"
        )
    with torch.device("meta"):
        fast = type(plain).from_config(plain.config)
    # Modulation layers, embedders and the output layer are little work, and quantizing them costs much quality.
    per_token = family_of_model(plain).transformer.per_token
    for name, module in plain.named_modules():
        if per_token.fullmatch(name) and isinstance(module, nn.Linear):
            fast.set_submodule(name, W8A8Linear(module, dtype=module.weight.dtype))
        else:
            for key, parameter in module.named_parameters(recurse=False):
                fast.get_submodule(name).register_parameter(key, parameter)
    return fast.eval()


def int8_layers(fast: ModelMixin) -> dict[str, W8A8Linear]:
    """Return the int8 layers by name."""
    return {name: module for name, module in fast.named_modules() if isinstance(module, W8A8Linear)}
