"""Distortions of images for tests of the quality measures: the autoencoder of the base model, and warps."""

import functools

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from weights.bases import WEIGHTS

WARP_CELLS = 4  # per side: larger than details, smaller than the subject


@functools.cache
def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(WEIGHTS / "tiny-flux" / "vae")


def decoded_again(images: list[Image.Image]) -> list[Image.Image]:
    """Encode and decode images with the autoencoder of the base model, the best quality it can generate."""
    return [*map(_decoded_again, images)]  # one by one, as a batch of many is slower on a CPU


@torch.no_grad()
def _decoded_again(image: Image.Image) -> Image.Image:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    decoded = _autoencoder().decode(_autoencoder().encode(pixels).latent_dist.mean).sample[0]
    return Image.fromarray(((decoded / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def warped(image: Image.Image, *, amplitude: float, seed: int) -> Image.Image:
    """Displace each pixel by smooth noise whose standard deviation is `amplitude`, as a fraction of the side."""
    rng, (width, height) = np.random.default_rng(seed), image.size
    rows, columns = (
        positions + amplitude * side * _smooth_noise(rng, width=width, height=height)
        for positions, side in zip(np.mgrid[:height, :width], (height, width), strict=True)
    )
    rows, columns = rows.round().astype(int).clip(0, height - 1), columns.round().astype(int).clip(0, width - 1)
    return Image.fromarray(np.asarray(image)[rows, columns])


def _smooth_noise(rng: np.random.Generator, *, width: int, height: int) -> np.ndarray:
    noise = rng.normal(size=(WARP_CELLS + 1, WARP_CELLS + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
