"""The classes of FLUX.1's components, by their folders."""

from pathlib import Path

from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from lora.base.components import ComponentError
from lora.base.family import Components

CLIP, T5 = "text_encoder", "text_encoder_2"
CLIP_TOKENIZER, T5_TOKENIZER = "tokenizer", "tokenizer_2"


def _check_scale(folder: Path, vae: nn.Module) -> None:
    assert isinstance(vae, AutoencoderKL)
    for name in ("scaling_factor", "shift_factor"):
        if not isinstance(value := vae.config[name], int | float):
            raise ComponentError(f"{folder / 'config.json'} has {name} {value!r}: expected a number")


COMPONENTS = Components(
    pipeline=FluxPipeline,
    served_pipelines=frozenset({"FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"}),
    transformer=FluxTransformer2DModel,
    vae=AutoencoderKL,
    text_encoders={CLIP: CLIPTextModel, T5: T5EncoderModel},
    tokenizers={CLIP_TOKENIZER: CLIPTokenizer, T5_TOKENIZER: T5Tokenizer},
    check_vae=_check_scale,
)
