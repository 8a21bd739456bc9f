"""The record of a family of base models: its classes, its sizes, and the functions that differ between families.

`lora.families` finds the record of a base. Everything outside of a family's package asks the record, never its name.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora.base.dimensions import Dimensions
from lora.base.latents import LatentSpace
from lora.base.modulation import LayerInput
from lora.base.presets import Preset
from lora.base.prompt import Prompt
from lora.formats.layer_names.record import LayerNames
from lora.formats.weight_deltas import Model

TRANSFORMER, VAE = "transformer", "vae"  # the folders of these components in a base in diffusers layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The classes of a base's components, each by the folder that it is in."""

    pipeline: type[DiffusionPipeline]
    served_pipelines: frozenset[str]  # the classes in model_index.json whose components are these
    transformer: type[ModelMixin]
    vae: type[ModelMixin]
    text_encoders: Mapping[str, type[PreTrainedModel]]  # from the smallest to the largest
    tokenizers: Mapping[str, type[PreTrainedTokenizerBase]]
    check_vae: Callable[[Path, nn.Module], None]  # raises ValueError about its folder if its config is unusable

    @property
    def models(self) -> dict[str, type[nn.Module]]:
        """All classes that have weights."""
        return {TRANSFORMER: self.transformer, VAE: self.vae, **self.text_encoders}

    @property
    def of_text(self) -> tuple[str, ...]:
        """The folders that an encoded prompt depends on."""
        return *self.text_encoders, *self.tokenizers


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoding:
    """How prompts are encoded."""

    encode: Callable[[Any, str], Prompt]  # by a pipeline with its text encoders; see lora/flux/prompt.py
    length: Callable[[Any], int]  # of a pipeline: the number of tokens that each text is padded or truncated to
    length_of: Callable[[Path], int]  # the same for the folder of a base that can be trained; raises ValueError
    count: Callable[[Any, str], int]  # the tokens of a text before that
    width_of: Callable[[Path], int]  # of the embedding of a token, from the base's configs
    has_negative: bool  # whether guidance needs a negative prompt: true classifier-free guidance


class PredictVelocity(Protocol):
    """Predicts the velocity [B, C, H, W] of noisy latents; see lora/flux/velocity.py."""

    def __call__(
        self,
        transformer: ModelMixin,
        noisy: Tensor,
        *,
        sigmas: Tensor,
        prompt: Prompt,
        guidance: float,
        references: tuple[Tensor, ...] = (),
    ) -> Tensor:
        """`sigmas` [B] in 0..1; `references` are latents of reference images [B, C, H, W], of any sizes, none for a
        family that takes none. All tensors are on the transformer's device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """What is particular to a family's transformer."""

    modulation: re.Pattern[str] | None  # names of modulation layers in blocks: their inputs depend on no token
    per_token: re.Pattern[str]  # names of the layers that multiply every token, which is nearly all of the work
    dimensions: Callable[[Mapping[str, Any]], Dimensions]  # of its configuration
    predict_velocity: PredictVelocity
    takes_references: bool  # whether it reads reference images beside the noisy one, as for editing
    modulation_input: LayerInput | None  # of modulation layers in blocks; None if the blocks share their modulation
    layer_sets: Mapping[str, str]  # sets of layers to train, each as a regular expression for whole names
    loads_whole_groups: str | None  # a program that loads a LoRA only on all layers that the original model fuses


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """The settings of images for which a request leaves them open."""

    steps: int
    guidance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """The settings of one image."""

    width: int  # pixels, multiples of 16
    height: int
    steps: int
    guidance: float
    seed: int
    after_step: Callable[[int], object]  # called after each denoising step with the number of all; may raise
    references: tuple[Tensor, ...] = ()  # latents of reference images [1, C, H, W], on any device


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """An image to start from, in the size of the result."""

    image: Image.Image  # RGB
    mask: Image.Image | None  # L, in the same size: white is regenerated; None regenerates everything
    strength: float  # 0..1: the share of the steps that run


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceEncoding:
    """How the reference images of a request are encoded."""

    fit: Callable[[Image.Image], Image.Image]  # an RGB image of any size to the size that is encoded
    encode: Callable[[Any, Image.Image], Tensor]  # by a pipeline, from an RGB image of any size: [1, C, H, W]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How images are generated. `prompt` and `negative` are single ones, without a batch dimension; `negative` is None
    if the family has none or the base is distilled."""

    defaults: SamplingDefaults  # of a base that takes guidance
    distilled: SamplingDefaults  # of a base that is distilled for few steps
    takes_guidance: Callable[[Any], bool]  # whether guidance changes the images of a pipeline; not if it is distilled
    needs_negative: Callable[[Any, float], bool]  # whether a pipeline needs `negative` at a guidance
    # (transformer, base, *, vae=None): for encoded prompts; without a VAE, it can only generate latents
    build_pipeline: Callable[..., Any]
    generate_image: Callable[[Any, Prompt, Prompt | None, SamplingSettings], Image.Image]  # by a pipeline
    generate_latents: Callable[[Any, Prompt, Prompt | None, SamplingSettings], Tensor]  # [C, H, W], as it trains on
    generate_from_image: Callable[[Any, Prompt, Prompt | None, SamplingSettings, ImageSource], Image.Image]
    references: ReferenceEncoding | None  # None if the transformer takes none

    def defaults_of(self, *, takes_guidance: bool) -> SamplingDefaults:
        """The defaults of a base that takes guidance, or of one that does not."""
        return self.defaults if takes_guidance else self.distilled


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """What the metadata of a LoRA file say of the model that it is for, as other tools read them."""

    architecture: str  # modelspec.architecture, before "/lora"
    implementation: str  # modelspec.implementation
    base_model_version: str  # ss_base_model_version
    network_module: str  # ss_network_module, in the layout of kohya


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of base models."""

    name: str  # as its publisher writes it
    components: Components
    text: TextEncoding
    latents: LatentSpace
    transformer: Transformer
    sampling: Sampling
    presets: Mapping[str, Preset]  # by LORA_TYPES
    layer_names: LayerNames  # in LoRA files
    lora_models: Mapping[Model, str]  # the models that LoRA files may change -> their folders
    file_identity: Callable[[Mapping[str, Any]], FileIdentity]  # of LoRA files, by the transformer's configuration
