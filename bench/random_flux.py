"""FLUX.1 and FLUX.2 with random weights of their real shape, created on the device; and random inputs for them.

The speed of a model does not depend on what it has learned. Weights of zeros would be faster: they draw less power.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora.base.dimensions import Dimensions
from lora.base.family import TRANSFORMER, VAE, Family
from lora.base.prompt import Prompt
from lora.dataset.encoding import EncodedDataset, Example
from lora.families.frozen_transformer import WeightPlacement, build_transformer
from lora.families.registry import family_of
from lora.flux.family import FLUX1
from lora.flux.prompt import MAX_TEXT_TOKENS
from lora.flux2.family import FLUX2
from lora.formats.shapes import Shape
from lora.training.recipe.layers import block_layers
from weights.bases import WEIGHTS
from weights.catalogue import EMBEDDED

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
    has_script: bool  # whether the loop of diffusers' script (bench/script_loop.py) can train it

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
    """All of a base, with the configuration of each component."""

    vae: Config
    text_encoders: Mapping[str, Config]  # by their folders

    @property
    def parameters(self) -> int:
        """The number of weights in all components."""
        with torch.device("meta"):
            kind = self.family.components.transformer
            models = [kind.from_config(dict(self.transformer)), _vae(self), *_text_encoders(self, None).values()]
        return sum(math.prod(each.shape) for model in models for each in model.parameters())


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
    text_encoders={
        "text_encoder": {
            **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
            **{"max_position_embeddings": 77, "projection_dim": 768, "vocab_size": 49408},
        },
        "text_encoder_2": {
            **{"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24, "vocab_size": 32128},
            **{"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0, "is_encoder_decoder": False, "use_cache": False},
        },
    },
    text_tokens=MAX_TEXT_TOKENS,
    has_script=True,
)


# From the config.json files of black-forest-labs/FLUX.2-klein-base-4B and -9B. Their text encoders: Qwen3-4B and -8B.
_KLEIN: Config = {
    **{"patch_size": 1, "in_channels": 128, "out_channels": None, "timestep_guidance_channels": 256},
    **{"attention_head_dim": 128, "axes_dims_rope": (32, 32, 32, 32), "mlp_ratio": 3.0, "guidance_embeds": False},
}
_KLEIN_VAE: Config = {
    **{"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 32, "sample_size": 1024},
    **{"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4},
    **{"batch_norm_eps": 1e-4, "patch_size": (2, 2)},
}
_QWEN3: Config = {
    **{"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
    **{"vocab_size": 151936, "max_position_embeddings": 40960},
}


def _klein(qwen3: Config, **transformer: int) -> Sizes:
    return Sizes(
        family=FLUX2,
        transformer={**_KLEIN, **transformer},
        vae=_KLEIN_VAE,
        text_encoders={"text_encoder": {**_QWEN3, **qwen3}},
        text_tokens=MAX_TEXT_TOKENS,
        has_script=False,
    )


KLEIN_4B = _klein(
    {"hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True},
    **{"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680},
)
KLEIN_9B = _klein(
    {"hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False},
    **{"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288},
)
DEFAULT_BASE = "dev"  # of BASES
BASES: Mapping[str, Sizes] = {DEFAULT_BASE: DEV, "klein-4B": KLEIN_4B, "klein-9B": KLEIN_9B}


def embedded_base(family: Family) -> Path:
    """The folder of the base of a family that is a part of this project."""
    return next(WEIGHTS / each.folder for each in EMBEDDED if family_of(WEIGHTS / each.folder) is family)


def tiny_sizes(base: str = DEFAULT_BASE) -> Sizes:
    """The sizes of the embedded base of the same family, with one block of each kind and short texts, for a small
    configuration."""
    full = BASES[base]
    names = (TRANSFORMER, VAE, *full.text_encoders)
    folder = embedded_base(full.family)
    configs = {name: json.loads((folder / name / "config.json").read_text()) for name in names}
    return Sizes(
        family=full.family,
        transformer={**configs[TRANSFORMER], "num_layers": 1, "num_single_layers": 1},
        vae=configs[VAE],
        text_encoders={name: configs[name] for name in full.text_encoders},
        text_tokens=FEW_TOKENS,
        has_script=full.has_script,
    )


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


def random_text_encoders(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> dict[str, PreTrainedModel]:
    """The text encoders by their folders, as transformers initializes them."""
    with _seeded(), device:
        return {name: _frozen(encoder) for name, encoder in _text_encoders(sizes, dtype).items()}


def _text_encoders(sizes: Sizes, dtype: torch.dtype | None) -> dict[str, PreTrainedModel]:
    kinds: Mapping[str, Any] = sizes.family.components.text_encoders
    configs = {name: kind.config_class(**sizes.text_encoders[name]) for name, kind in kinds.items()}
    return {name: kind._from_config(configs[name], dtype=dtype) for name, kind in kinds.items()}


def _vae(sizes: Sizes) -> ModelMixin:
    return sizes.family.components.vae.from_config(dict(sizes.vae))


def random_pipeline(sizes: Sizes, transformer: ModelMixin) -> DiffusionPipeline:
    """A pipeline with a transformer, on its device and in its precision; tokenizers and scheduler are those of the
    embedded base."""
    device, dtype, kinds = transformer.device, transformer.dtype, sizes.family.components
    encoders = random_text_encoders(sizes, device, dtype)
    with _seeded(), device:
        vae = _frozen(_vae(sizes)).to(dtype)
    pipeline = kinds.pipeline.from_pretrained(embedded_base(sizes.family), transformer=transformer, vae=vae, **encoders)
    *_, tokenizer = kinds.tokenizers  # of the largest text encoder, whose texts have the length
    getattr(pipeline, tokenizer).model_max_length = sizes.text_tokens
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
