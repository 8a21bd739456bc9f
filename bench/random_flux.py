"""FLUX.1 and FLUX.2 with random weights of their real shape, created on the device; and random inputs for them.

The speed of a model does not depend on what it has learned. Weights of zeros would be faster: they draw less power.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, FluxPipeline
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from lora.base.dimensions import Dimensions
from lora.base.family import Family
from lora.base.prompt import Prompt
from lora.dataset.encoding import EncodedDataset, Example
from lora.families.frozen_transformer import WeightPlacement, build_transformer
from lora.flux.family import FLUX1
from lora.flux.prompt import MAX_TEXT_TOKENS
from lora.flux2.family import FLUX2
from lora.formats.shapes import Shape
from lora.training.recipe.layers import block_layers
from weights.bases import WEIGHTS

TINY = WEIGHTS / "tiny-flux"
SPREAD = 0.02  # standard deviation of weights
LATENT_CHANNELS = 16
FEW_TOKENS = 16
Config = Mapping[str, Any]
Component = TypeVar("Component", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerSizes:
    """What a training needs of a base: the configuration of its transformer, with the keys of diffusers, and the length
    of texts."""

    family: Family
    transformer: Config
    text_tokens: int

    @property
    def layers(self) -> dict[str, Shape]:
        """All layers in the blocks."""
        return block_layers(self.transformer, self.family.components.transformer)

    @property
    def dimensions(self) -> Dimensions:
        """The sizes of the transformer and of its blocks."""
        return self.family.transformer.dimensions(self.transformer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes(TransformerSizes):
    """All of FLUX.1, with the configuration of each component."""

    vae: Config
    clip: Config
    t5: Config


# From the config.json files of black-forest-labs/FLUX.1-dev. Vocabularies are those of the published tokenizers.
DEV = Sizes(
    family=FLUX1,
    transformer={
        **{"patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "guidance_embeds": True},
        **{"attention_head_dim": 128, "num_attention_heads": 24, "axes_dims_rope": (16, 56, 56)},
        **{"joint_attention_dim": 4096, "pooled_projection_dim": 768},
    },
    vae={
        **{"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": LATENT_CHANNELS},
        **{"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4},
        **{"use_quant_conv": False, "use_post_quant_conv": False, "sample_size": 1024},
        **{"scaling_factor": 0.3611, "shift_factor": 0.1159},
    },
    clip={
        **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        **{"max_position_embeddings": 77, "projection_dim": 768, "vocab_size": 49408},
    },
    t5={
        **{"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24, "vocab_size": 32128},
        **{"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0, "is_encoder_decoder": False, "use_cache": False},
    },
    text_tokens=MAX_TEXT_TOKENS,
)


# From the config.json files of black-forest-labs/FLUX.2-klein-base-4B and -9B.
_KLEIN: Config = {
    **{"patch_size": 1, "in_channels": 128, "out_channels": None, "timestep_guidance_channels": 256},
    **{"attention_head_dim": 128, "axes_dims_rope": (32, 32, 32, 32), "mlp_ratio": 3.0, "guidance_embeds": False},
}
KLEIN_4B = TransformerSizes(
    family=FLUX2,
    transformer={
        **_KLEIN,
        **{"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680},
    },
    text_tokens=MAX_TEXT_TOKENS,
)
KLEIN_9B = TransformerSizes(
    family=FLUX2,
    transformer={
        **_KLEIN,
        **{"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288},
    },
    text_tokens=MAX_TEXT_TOKENS,
)
BASES: Mapping[str, TransformerSizes] = {"dev": DEV, "klein-4B": KLEIN_4B, "klein-9B": KLEIN_9B}


def tiny_transformer_sizes(base: str) -> TransformerSizes:
    """A small configuration of the family of one of BASES."""
    if BASES[base].family is FLUX1:
        return tiny_sizes()
    small = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 32, "num_attention_heads": 4}
    transformer = {**_KLEIN, **small, "joint_attention_dim": 128, "axes_dims_rope": (8, 8, 8, 8)}
    return TransformerSizes(family=FLUX2, transformer=transformer, text_tokens=FEW_TOKENS)


def tiny_sizes() -> Sizes:
    """The sizes of weights/tiny-flux, with one block of each kind and short texts, for a small configuration."""
    components = ("transformer", "vae", "text_encoder", "text_encoder_2")
    transformer, vae, clip, t5 = (json.loads((TINY / name / "config.json").read_text()) for name in components)
    transformer |= {"num_layers": 1, "num_single_layers": 1}
    return Sizes(family=FLUX1, transformer=transformer, vae=vae, clip=clip, t5=t5, text_tokens=FEW_TOKENS)


def random_transformer(sizes: TransformerSizes, placement: WeightPlacement) -> ModelMixin:
    """A transformer as a training or a server has it, with normal weights of deviation 0.02, biases 0 and norms 1. They
    are always the same on the same kind of device, whatever the precision."""

    def source(shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
        generator = torch.Generator(placement.device).manual_seed(0)
        for name, shape in shapes.items():
            yield name, _parameter(name, shape, generator)

    with torch.device("meta"):
        transformer = sizes.family.components.transformer.from_config(dict(sizes.transformer))
    return build_transformer(transformer, source, placement)


def _parameter(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    dtype = torch.bfloat16  # as FLUX is published
    if len(shape) == 1:
        value = 0.0 if name.endswith("bias") else 1.0
        return torch.full(shape, value, device=generator.device, dtype=dtype)
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype).mul_(SPREAD)


def random_text_encoders(
    sizes: Sizes, device: torch.device, dtype: torch.dtype
) -> tuple[CLIPTextModel, T5EncoderModel]:
    """CLIP and T5, as transformers initializes them."""
    with _seeded(), device:
        clip = CLIPTextModel._from_config(CLIPTextConfig(**sizes.clip), dtype=dtype)
        t5 = T5EncoderModel._from_config(T5Config(**sizes.t5), dtype=dtype)
    return _frozen(clip), _frozen(t5)


def random_pipeline(sizes: Sizes, transformer: ModelMixin) -> FluxPipeline:
    """A pipeline with a transformer, on its device and in its precision; tokenizers and scheduler are those of the
    embedded base."""
    device, dtype = transformer.device, transformer.dtype
    clip, t5 = random_text_encoders(sizes, device, dtype)
    with _seeded(), device:
        vae = _frozen(AutoencoderKL.from_config(dict(sizes.vae))).to(dtype)
    components = {"transformer": transformer, "vae": vae, "text_encoder": clip, "text_encoder_2": t5}
    pipeline = FluxPipeline.from_pretrained(TINY, **components)
    pipeline.tokenizer_2.model_max_length = sizes.text_tokens
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def random_dataset(sizes: TransformerSizes, *, side: int, count: int, dtype: torch.dtype) -> EncodedDataset:
    """Examples of square images of `side` pixels, on the CPU as an encoded data set is; prompts have `dtype`."""
    generator = torch.Generator().manual_seed(0)
    space, channels = sizes.family.latents, sizes.transformer["in_channels"]
    latent_side = side // space.pixels
    examples = []
    for number in range(count):
        latents = torch.randn(channels // space.patch**2, latent_side, latent_side, generator=generator)
        examples.append(Example(latents, random_prompt(sizes, generator, dtype), content=str(number)))
    return EncodedDataset(tuple(examples), dropped=examples[0].prompt)


def random_prompt(sizes: TransformerSizes, generator: torch.Generator, dtype: torch.dtype) -> Prompt:
    """A random prompt in the sizes of an encoded one."""
    tokens = torch.randn(sizes.text_tokens, sizes.transformer["joint_attention_dim"], generator=generator)
    width = sizes.transformer.get("pooled_projection_dim")
    pooled = None if width is None else torch.randn(width, generator=generator).to(dtype)
    return Prompt(tokens.to(dtype), pooled)


def random_lora(layers: Mapping[str, Shape], *, rank: int, seed: int) -> dict[str, Tensor]:
    """The tensors of a LoRA file in bf16, on layers of these names; its strength is arbitrary."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in layers.items():
        for half, size in (("lora_A", (rank, shape.inputs)), ("lora_B", (shape.outputs, rank))):
            values = torch.randn(size, generator=generator).mul_(SPREAD)
            tensors[f"transformer.{name}.{half}.weight"] = values.bfloat16()
    return tensors


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _frozen(module: Component) -> Component:
    module.requires_grad_(False)
    return module.eval()
