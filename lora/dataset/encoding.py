"""Captioned images become tensors, once. Knows the encoders, not the transformer."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline
from PIL import Image
from torch import Tensor

from lora.dataset.images import open_picture
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.sizes import Size, fit, training_size
from lora.flux.prompt import Prompt, encode_prompt


@dataclass(frozen=True, slots=True)
class Example:
    """One image at one size, with its caption."""

    latents: Tensor  # [C, H, W] fp32, scaled as the transformer knows them
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class EncodedDataset:
    """All that training needs to see."""

    examples: tuple[Example, ...]
    dropped: Prompt  # takes the place of a dropped caption: the trigger word alone, or the empty prompt without one


@torch.no_grad()
def encode_dataset(
    encoders: FluxPipeline, dataset: Dataset, *, resolutions: tuple[int, ...], trigger_word: str
) -> EncodedDataset:
    """Encode every image at every resolution that it supports, and each distinct text once. Tensors are on the CPU."""
    texts = {image.caption for image in dataset.images} | {trigger_word}
    prompts = {text: _on_cpu(encode_prompt(encoders, text)) for text in sorted(texts)}
    examples = [
        Example(latents, prompts[image.caption])
        for image in dataset.images
        for latents in _encode_at_all_sizes(encoders.vae, image, resolutions)
    ]
    return EncodedDataset(tuple(examples), dropped=prompts[trigger_word])


def _encode_at_all_sizes(vae: AutoencoderKL, image: CaptionedImage, resolutions: tuple[int, ...]) -> list[Tensor]:
    picture = open_picture(image.path)
    return [encode_picture(vae, fit(picture, size)) for size in _sizes(image, resolutions)]


def encode_picture(vae: AutoencoderKL, picture: Image.Image) -> Tensor:
    """Latents [C, H, W] in fp32 on the CPU: the mean of the posterior, shifted and scaled as FLUX's are."""
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32)).permute(2, 0, 1)[None] / 127.5 - 1.0
    mean = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean[0].float().cpu()
    return (mean - vae.config.shift_factor) * vae.config.scaling_factor


def _sizes(image: CaptionedImage, resolutions: tuple[int, ...]) -> list[Size]:
    """An image too small for two resolutions has the same size at both: it is trained at that size once."""
    original = Size(image.width, image.height)
    return sorted({training_size(original, resolution=resolution) for resolution in resolutions})


def _on_cpu(prompt: Prompt) -> Prompt:
    return Prompt(prompt.tokens.cpu(), prompt.pooled.cpu())
