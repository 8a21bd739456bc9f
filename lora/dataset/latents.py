"""Fitted pictures become latents: in batches of one size, while threads read the next ones."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from lora.dataset.cache import Cache
from lora.dataset.cache_keys import Keys
from lora.dataset.crops import Crop
from lora.dataset.inspection import Inspector
from lora.dataset.pixels import Pixels
from lora.dataset.reading import CaptionedImage
from lora.dataset.workers import map_in_order
from lora.images.files import quiet_pillow

PIXELS_PER_CALL = 2**20  # nothing interrupts a call of the VAE: one image of 1024x1024, or four of 512x512
PIXELS_AT_HAND = 2**23  # of images that wait for others of their sizes


@dataclass(frozen=True, slots=True)
class Fitted:
    """A view of an image; copies of an image are equal."""

    content: str  # sha256 of its file
    view: Crop


@dataclass(frozen=True, slots=True)
class Batch:
    """Images fitted to one size."""

    fitted: list[Fitted]
    pixels: Pixels  # [B, H, W, 3]


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
    """The latents [C, h, w] of every view of every image, each distinct one once."""
    latents, keyed, missing = {}, {}, []
    for image in images:
        content, views = image.look.content, image.look.views
        wanted = {Fitted(content, view): keys.latents(content, view, decoded_for=views[-1]) for view in views}
        keyed.update(wanted)
        kept = {fitted: cache.get(key) for fitted, key in wanted.items()}
        latents.update({fitted: tensors["latents"] for fitted, tensors in kept.items() if tensors})
        missing.append(_Work(tuple(each.view for each, tensors in kept.items() if not tensors), content, image.path))
    # What an image becomes differs in its last bits by what is encoded beside it.
    per_call = 1 if cache.outlives_job else PIXELS_PER_CALL
    for batch in _batches(missing, inspector, per_call):
        for fitted, latent in zip(batch.fitted, encode_pixels(vae, batch.pixels), strict=True):
            latents[fitted] = cache.put(keyed[fitted], {"latents": latent})["latents"]
    return latents


def crop_batches(images: Iterable[CaptionedImage], inspector: Inspector) -> Iterator[Batch]:
    """Every view of every image, each distinct one once, as the VAE takes them."""
    works = [_Work(image.look.views, image.look.content, image.path) for image in images]
    yield from _batches(works, inspector, PIXELS_PER_CALL)


@dataclass(frozen=True, slots=True, order=True)
class _Work:
    """What is needed of an image, which is decoded once for all of it."""

    views: tuple[Crop, ...]
    content: str
    path: Path


def _batches(works: Iterable[_Work], inspector: Inspector, per_call: int) -> Iterator[Batch]:
    """Images of the same views are taken together, those of one view in batches of so many pixels or one image."""
    distinct = {work.content: work for work in works if work.views}
    ordered = sorted(distinct.values())
    fitted = map_in_order(lambda work: inspector.pixels(work.path, work.content, work.views), ordered)
    with quiet_pillow(), closing(fitted):
        for views, group in groupby(ordered, key=lambda work: work.views):
            same, at_hand = list(group), max(PIXELS_AT_HAND // sum(view.size.pixels for view in views), 1)
            for start in range(0, len(same), at_hand):
                contents = [work.content for work in same[start : start + at_hand]]
                yield from _by_view(views, contents, [next(fitted) for _ in contents], per_call)


def _by_view(
    views: tuple[Crop, ...], contents: list[str], fitted: list[list[Pixels]], per_call: int
) -> Iterator[Batch]:
    for view, pixels in zip(views, zip(*fitted, strict=True), strict=True):
        count = max(per_call // view.size.pixels, 1)
        for start in range(0, len(contents), count):
            some, theirs = contents[start : start + count], pixels[start : start + count]
            stacked = (
                np.stack(theirs) if len(theirs) > 1 else theirs[0][None]
            )  # large ones come alone, and need no copy
            yield Batch([Fitted(content, view) for content in some], stacked)
