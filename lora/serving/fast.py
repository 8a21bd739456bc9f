"""The transformer in 8 bits, for requests that go fast: rounded from the plain one as it is dressed. Knows no LoRA.

Whatever is worn is rounded together with the weights it was added to, at its full strength; the same weights are the
same codes, whatever was rounded before.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from lora.flux.eight_bit import W8A8Linear
from lora.serving.wardrobe import Wardrobe

# Products with every token of text or image: nearly all of the work. What sees the timestep and the prompt as a whole
# is little work and much quality, and stays as it is.
PER_TOKEN = re.compile(
    r"transformer_blocks\.\d+\.(attn|ff|ff_context)\..+"
    r"|single_transformer_blocks\.\d+\.(attn\..+|proj_mlp|proj_out)"
)
GRAPHS = 2  # torch.compile makes one for the first shape alone, and one for all others


class FastTransformer:
    """Draws in the place of a pipeline's transformer. Wherever a call is interrupted, the next one finds its way."""

    def __init__(self, pipeline: FluxPipeline, wardrobe: Wardrobe, *, say: Callable[[str], None]) -> None:
        """For the pipeline that `wardrobe` dresses. `say` gets a line before the first step that has to be compiled."""
        self._pipeline = pipeline
        self._plain: FluxTransformer2DModel = pipeline.transformer
        self._wardrobe = wardrobe
        self._say = say
        self._rounded: dict[str, int] = {}  # the wardrobe's count of writes that a layer's codes are of

    @contextmanager
    def driving(self) -> Iterator[None]:
        """The pipeline draws in 8 bits, wearing what it wears as this begins.

        Raises ValueError if a layer's sizes are not such as a GPU multiplies in 8 bits.
        """
        self._round()
        try:
            self._pipeline.transformer = self._fast
            yield
        finally:
            self._pipeline.transformer = self._plain

    @cached_property
    def _fast(self) -> FluxTransformer2DModel:
        """Made when first asked for: who never goes fast spends no memory on it."""
        fast = eight_bit(self._plain)
        if fast.device.type == "cuda":
            fast.compile_repeated_blocks(fullgraph=True)
            announce_compiling(fast, self._say)
        return fast

    def _round(self) -> None:
        """Round the layers that were written since they were last rounded; all of them the first time."""
        for name, layer in eight_bit_layers(self._fast).items():
            writes = self._wardrobe.writes[f"transformer.{name}"]
            if self._rounded.get(name) != writes:
                layer.hold(self._plain.get_submodule(name).weight)
                self._rounded[name] = writes


def eight_bit(plain: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """The same model with 8-bit layers that hold nothing yet; all else are the parameters of `plain` themselves.

    Raises ValueError if a layer's sizes are not such as a GPU multiplies in 8 bits.
    """
    with torch.device("meta"):
        fast = FluxTransformer2DModel.from_config(plain.config)
    for name, module in plain.named_modules():
        if PER_TOKEN.fullmatch(name) and isinstance(module, nn.Linear):
            fast.set_submodule(name, W8A8Linear(module))
        else:
            for key, parameter in module.named_parameters(recurse=False):
                fast.get_submodule(name).register_parameter(key, parameter)
    return fast.eval()


def eight_bit_layers(fast: FluxTransformer2DModel) -> dict[str, W8A8Linear]:
    """The layers that multiply in 8 bits, by name."""
    return {name: module for name, module in fast.named_modules() if isinstance(module, W8A8Linear)}


def announce_compiling(transformer: FluxTransformer2DModel, say: Callable[[str], None]) -> None:
    """Before a step of a shape that has to be compiled for, say so."""
    seen: set[int] = set()

    def before_step(_module: nn.Module, _inputs: tuple[object, ...], step: Mapping[str, Tensor]) -> None:
        tokens = step["hidden_states"].shape[1]
        if tokens not in seen and len(seen) < GRAPHS:
            say(f"go_fast: compiling for {tokens} image tokens; this happens for two sizes of images, and then no more")
            seen.add(tokens)

    transformer.register_forward_pre_hook(before_step, with_kwargs=True)
