"""Fitted pictures become latents: in batches of one size, while threads read the next ones."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from lora.dataset.cache import Cache
from lora.dataset.images import quiet_pillow
from lora.dataset.inspection import Inspector
from lora.dataset.keys import Keys
from lora.dataset.pixels import Pixels
from lora.dataset.reading import CaptionedImage
from lora.dataset.sizes import Size
from lora.dataset.workers import in_order

PIXELS_PER_CALL = 2**20  # nothing interrupts a call of the VAE: one image of 1024x1024, or four of 512x512


@dataclass(frozen=True, slots=True, order=True)
class Fitted:
    """An image at a size; copies of an image are equal."""

    size: Size
    content: str


@dataclass(frozen=True, slots=True)
class _Job:
    fitted: Fitted
    path: Path
    key: str


@torch.no_grad()
def encode_pixels(vae: AutoencoderKL, pixels: Pixels) -> Tensor:
    """Latents [B, C, h, w] in fp32 on the CPU of pixels [B, H, W, 3]: the mean of the posterior, shifted and scaled as
    FLUX's are."""
    scaled = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    mean = vae.encode(scaled.to(vae.device, vae.dtype)).latent_dist.mean.float().cpu()
    return (mean - vae.config.shift_factor) * vae.config.scaling_factor


def encode_images(
    vae: AutoencoderKL, images: Iterable[CaptionedImage], inspector: Inspector, *, keys: Keys, cache: Cache
) -> dict[Fitted, Tensor]:
    """The latents [C, h, w] of every image at each of its sizes, each distinct one once."""
    latents, missing = {}, []
    for job in _jobs(images, keys):
        kept = cache.get(job.key)
        if kept is None:
            missing.append(job)
        else:
            latents[job.fitted] = kept["latents"]
    pixels = in_order(lambda job: inspector.pixels(job.path, job.fitted.content, job.fitted.size), missing)
    with quiet_pillow():
        for batch in _batches(missing):
            encoded = encode_pixels(vae, np.stack([next(pixels) for _ in batch]))
            for job, latent in zip(batch, encoded, strict=True):
                latents[job.fitted] = cache.put(job.key, {"latents": latent})["latents"]
    return latents


def _jobs(images: Iterable[CaptionedImage], keys: Keys) -> list[_Job]:
    """By size, so that batches are full."""
    jobs = {}
    for image in images:
        content, sizes = image.look.content, image.look.sizes
        for size in sizes:
            fitted = Fitted(size, content)
            jobs[fitted] = _Job(fitted, image.path, keys.latents(content, size, decoded_for=sizes[-1]))
    return [jobs[fitted] for fitted in sorted(jobs)]


def _batches(jobs: list[_Job]) -> Iterator[list[_Job]]:
    for size, group in groupby(jobs, key=lambda job: job.fitted.size):
        same, count = list(group), max(PIXELS_PER_CALL // (size.width * size.height), 1)
        yield from (same[start : start + count] for start in range(0, len(same), count))
