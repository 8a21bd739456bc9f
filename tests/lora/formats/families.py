"""Both families of models for the tests of LoRA files: their records, their layouts and the shapes of their layers."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel

from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.layer_names.flux2 import FLUX2
from lora.formats.layer_names.record import LayerNames
from lora.formats.shapes import linear_shapes
from tests.lora.formats.made import FLUX2_LAYOUTS, LAYOUTS, Layout, Shapes
from tests.tiny import tiny_transformer


@dataclass(frozen=True)
class Case:
    """A layout of a family."""

    names: LayerNames
    layout: Layout
    tiny_shapes: Callable[[], Shapes]

    @property
    def shapes(self) -> Shapes:
        """The shapes of all linear layers of a tiny transformer, including the embedders and the last layers."""
        return self.tiny_shapes()


@functools.cache
def flux1_shapes() -> Shapes:
    return linear_shapes(tiny_transformer())


@functools.cache
def flux2_shapes() -> Shapes:
    return linear_shapes(tiny_flux2())


def tiny_flux2() -> Flux2Transformer2DModel:
    """A transformer of two double and two single blocks, as of klein."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Flux2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=64,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )


# The configurations of the published transformers, with fewer blocks: from the config.json files of FLUX.1-dev, and
# Klein4BParams, Klein9BParams and Flux2Params of ai-toolkit's extensions_built_in/diffusion_models/flux2/src/model.py.
FEW = {"num_layers": 2, "num_single_layers": 2}
FLUX2_SIZES = {
    "FLUX.2 [klein] 4B": (24, 7680),
    "FLUX.2 [klein] 9B": (32, 12288),
    "FLUX.2-dev": (48, 15360),
}  # heads, text


@functools.cache
def published_shapes(model: str) -> Shapes:
    """The shapes of all linear layers of a published model with two blocks of each kind."""
    with torch.device("meta"):
        if model == "FLUX.1":
            return linear_shapes(FluxTransformer2DModel(**FEW, guidance_embeds=True))
        heads, text = FLUX2_SIZES[model]
        return linear_shapes(
            Flux2Transformer2DModel(
                **FEW, num_attention_heads=heads, joint_attention_dim=text, guidance_embeds=model == "FLUX.2-dev"
            )
        )


CASES = {
    **{f"FLUX.1 {name}": Case(FLUX1, layout, flux1_shapes) for name, layout in LAYOUTS.items()},
    **{f"FLUX.2 {name}": Case(FLUX2, layout, flux2_shapes) for name, layout in FLUX2_LAYOUTS.items()},
}
