"""The models of a base without their weights: the names and shapes of all layers, in milliseconds and no memory."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from transformers import PreTrainedModel

from lora.base.components import wrap_loading_errors
from lora.base.family import TRANSFORMER, VAE
from lora.families.registry import family_of


def weightless_pipeline(base: Path) -> DiffusionPipeline:
    """Return the transformer and the text encoders of a base on the meta device; reads only their configs.

    Raises ValueError with one sentence that begins with the folder if a config cannot be read.
    """
    kinds = family_of(base).components
    with wrap_loading_errors(base), torch.device("meta"):
        encoders = {name: _weightless_encoder(kind, base / name) for name, kind in kinds.text_encoders.items()}
        transformer = kinds.transformer.from_config(kinds.transformer.load_config(base / TRANSFORMER))
        absent = dict.fromkeys(("scheduler", VAE, *kinds.tokenizers))
        return kinds.pipeline(**absent, **encoders, transformer=transformer)


def _weightless_encoder(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    config: Any = kind.config_class
    return kind(config.from_pretrained(folder, local_files_only=True))
