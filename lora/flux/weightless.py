"""The models of a base without their weights: the names and shapes of all layers, in milliseconds and no memory."""

from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from lora.flux.components import wrap_loading_errors
from lora.flux.placement import CLIP, T5, TRANSFORMER


def weightless_pipeline(base: Path) -> FluxPipeline:
    """Return the transformer and the text encoders of a base on the meta device; reads only their configs.

    Raises ValueError with one sentence that begins with the folder if a config cannot be read.
    """
    with wrap_loading_errors(base), torch.device("meta"):
        return FluxPipeline(
            scheduler=None,
            vae=None,
            text_encoder=CLIPTextModel(CLIPTextConfig.from_pretrained(base / CLIP, local_files_only=True)),
            tokenizer=None,
            text_encoder_2=T5EncoderModel(T5Config.from_pretrained(base / T5, local_files_only=True)),
            tokenizer_2=None,
            transformer=FluxTransformer2DModel.from_config(FluxTransformer2DModel.load_config(base / TRANSFORMER)),
        )
