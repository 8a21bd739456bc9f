"""Encodes crops of images and of their references into latents, in batches of equal size, while threads load the next
ones."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from lora.dataset.cache import Cache
from lora.dataset.cache_keys import Keys
from lora.dataset.crops import Crop
from lora.dataset.inspection import Inspector
from lora.dataset.pixels import Pixels
from lora.dataset.reading import CaptionedImage
from lora.dataset.references import (
    Reference,
    appearance_of_reference,
    crop_of_reference,
    crops_of_reference,
    reference_pixels,
)
from lora.dataset.training_pixels import training_pixels
from lora.dataset.workers import map_in_order
from lora.images.files import quiet_pillow

PIXELS_PER_CALL = 2**20  # one image of 1024x1024, or four of 512x512: a call of the VAE cannot be interrupted
PIXELS_IN_MEMORY = 2**23  # of images with the same crops, loaded together to form batches


@dataclass(frozen=True, slots=True)
class ImageCrop:
    """A crop of an image. Crops of images that look alike are equal."""

    appearance: str  # of the image, as CaptionedImage has it, or of a reference
    crop: Crop

    @classmethod
    def of(cls, image: CaptionedImage, crop: Crop) -> "ImageCrop":
        """A crop of an image."""
        return cls(image.appearance, crop)

    @classmethod
    def of_reference(cls, reference: Reference, image: CaptionedImage, crop: Crop) -> "ImageCrop":
        """The crop of a reference for a crop of its image."""
        looks = appearance_of_reference(reference, image.inspection)
        return cls(looks, crop_of_reference(reference, image.inspection, crop))


@dataclass(frozen=True, slots=True)
class Batch:
    """Image crops of the same size."""

    crops: list[ImageCrop]
    pixels: Pixels  # [B, H, W, 3]


Encode = Callable[[Tensor], Tensor]  # pixels [B, 3, H, W] in -1..1 -> latents [B, C, h, w]; see lora/base/latents.py


@torch.no_grad()
def encode_pixels(encode: Encode, pixels: Pixels) -> Tensor:
    """Encode pixels [B, H, W, 3] into latents [B, C, h, w], fp32 on the CPU."""
    return encode(torch.tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0)


def encode_images(
    encode: Encode,
    images: Iterable[CaptionedImage],
    inspector: Inspector,
    *,
    keys: Keys,
    cache: Cache,
    check: Callable[[], None],
) -> dict[ImageCrop, Tensor]:
    """Encode every crop of every image and of its references into latents [C, h, w], each distinct one once. `check` is
    called before each batch, and ends the encoding by an exception."""
    latents, cache_keys, missing = {}, {}, []
    for request in _requests(images, inspector):
        look, crops = request.appearance, request.crops
        image_keys = {ImageCrop(look, crop): keys.latents(look, crop, decoded_for=crops[-1]) for crop in crops}
        cache_keys.update(image_keys)
        cached = {each: cache.get(key) for each, key in image_keys.items()}
        latents.update({each: tensors["latents"] for each, tensors in cached.items() if tensors})
        uncached = tuple(each.crop for each, tensors in cached.items() if not tensors)
        missing.append(replace(request, crops=uncached))
    # The last bits of an image's latents depend on the other images in its batch.
    per_call = 1 if cache.outlives_job else PIXELS_PER_CALL
    for batch in _batches(missing, per_call):
        check()
        for each, latent in zip(batch.crops, encode_pixels(encode, batch.pixels), strict=True):
            latents[each] = cache.put(cache_keys[each], {"latents": latent})["latents"]
    return latents


def crop_batches(images: Iterable[CaptionedImage], inspector: Inspector) -> Iterator[Batch]:
    """Yield every crop of every image, each distinct one once, in batches for the VAE."""
    yield from _batches((_request(image, inspector) for image in images), PIXELS_PER_CALL)


@dataclass(frozen=True, slots=True)
class _LoadRequest:
    """The crops of an image to load; the image is decoded once for all of them."""

    appearance: str
    crops: tuple[Crop, ...]
    load: Callable[[Sequence[Crop]], list[Pixels]]


def _requests(images: Iterable[CaptionedImage], inspector: Inspector) -> Iterator[_LoadRequest]:
    """All crops of images, and of their references."""
    for image in images:
        yield _request(image, inspector)
        for reference in image.references:
            inspection = image.inspection
            yield _LoadRequest(
                appearance_of_reference(reference, inspection),
                crops_of_reference(reference, inspection),
                partial(reference_pixels, reference, inspection, large=inspector.large),
            )


def _request(image: CaptionedImage, inspector: Inspector) -> _LoadRequest:
    load = partial(training_pixels, image, inspector=inspector)
    return _LoadRequest(image.appearance, image.inspection.crops, load)


def _batches(requests: Iterable[_LoadRequest], per_call: int) -> Iterator[Batch]:
    """Batches of at most `per_call` pixels, or of one image. Images with the same crops are loaded together."""
    distinct = {request.appearance: request for request in requests if request.crops}
    ordered = sorted(distinct.values(), key=lambda request: (request.crops, request.appearance))
    loaded = map_in_order(lambda request: request.load(request.crops), ordered)
    with quiet_pillow(), closing(loaded):
        for crops, group in groupby(ordered, key=lambda request: request.crops):
            same, count = list(group), max(PIXELS_IN_MEMORY // sum(crop.size.pixels for crop in crops), 1)
            for start in range(0, len(same), count):
                looks = [request.appearance for request in same[start : start + count]]
                yield from _batches_by_crop(crops, looks, [next(loaded) for _ in looks], per_call)


def _batches_by_crop(
    crops: tuple[Crop, ...], looks: list[str], loaded: list[list[Pixels]], per_call: int
) -> Iterator[Batch]:
    for crop, pixels in zip(crops, zip(*loaded, strict=True), strict=True):
        count = max(per_call // crop.size.pixels, 1)
        for start in range(0, len(looks), count):
            some, arrays = looks[start : start + count], pixels[start : start + count]
            # A batch of one image needs no copy.
            stacked = np.stack(arrays) if len(arrays) > 1 else arrays[0][None]
            yield Batch([ImageCrop(look, crop) for look in some], stacked)
