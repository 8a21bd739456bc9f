"""The weights of the loss at each latent of each crop, from the masks of images.

As in sd-scripts (apply_masked_loss) and OneTrainer (masked_losses), a mask is reduced to the latents by area and
multiplied with the squared errors, and their mean is not divided by the mean weight, as it is in ai-toolkit: an error
inside of the mask counts as without a mask, and one outside of it `unmasked_weight` times as much. Divided, a small
mask would make what is outside of it count nearly as much as without a mask.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lora.dataset.cache import Cache, Tensors
from lora.dataset.cache_keys import Keys
from lora.dataset.crops import Crop
from lora.dataset.inspection import Inspector
from lora.dataset.masks import Mask, crops_of_mask
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.workers import map_in_order
from lora.images.files import quiet_pillow


@dataclass(frozen=True, slots=True)
class MaskedCrop:
    """A crop of an image with a mask."""

    content: str  # sha256 of the image file
    mask: Mask
    crop: Crop


def loss_weights(
    dataset: Dataset,
    inspector: Inspector,
    *,
    pixels_of_a_latent: int,
    keys: Keys,
    cache: Cache,
    check: Callable[[], None],
) -> dict[MaskedCrop, Tensor | None]:
    """The weights [H, W] fp32 of the loss at each latent of each crop of each image with a mask; None where the mask
    selects the whole crop. A latent holds `pixels_of_a_latent` pixels along each side. `check` is called before each
    image, and ends the work by an exception."""
    masked = [image for image in dataset.images if image.mask is not None]
    image_keys = [_key(image, keys) for image in masked]
    known = [cache.get(key) for key in image_keys]
    missing = [image for image, tensors in zip(masked, known, strict=True) if tensors is None]
    weights: dict[MaskedCrop, Tensor | None] = {}
    selected_by = partial(_selected, inspector=inspector, pixels_of_a_latent=pixels_of_a_latent)
    with quiet_pillow(), closing(map_in_order(selected_by, missing)) as computed:
        for image, key, cached in zip(masked, image_keys, known, strict=True):
            check()
            selected = cache.put(key, next(computed)) if cached is None else cached
            for each in _masked_crops(image):
                weights[each] = _weights(selected[str(each.crop)], dataset.masks.settings.unmasked_weight)
    return weights


def weights_of(image: CaptionedImage, crop: Crop, weights: Mapping[MaskedCrop, Tensor | None]) -> Tensor | None:
    """The weights of a crop of an image, or None if all latents count the same."""
    return weights[MaskedCrop(image.inspection.content, image.mask, crop)] if image.mask else None


def _masked_crops(image: CaptionedImage) -> Sequence[MaskedCrop]:
    assert image.mask is not None
    return [MaskedCrop(image.inspection.content, image.mask, crop) for crop in image.inspection.crops]


def _key(image: CaptionedImage, keys: Keys) -> str:
    assert image.mask is not None
    return keys.mask(image.inspection.content, image.mask.content, image.inspection.crops)


def _selected(image: CaptionedImage, inspector: Inspector, pixels_of_a_latent: int) -> Tensors:
    """How much of each latent the mask selects, from 0 to 1, [H, W] fp32 by crop."""
    assert image.mask is not None
    crops = image.inspection.crops
    found = crops_of_mask(
        image.mask, image.path, image.inspection, crops, pixels_per_cell=pixels_of_a_latent, large=inspector.large
    )
    return {
        str(crop): torch.from_numpy(np.asarray(each, dtype=np.float32) / 255)
        for crop, each in zip(crops, found, strict=True)
    }


def _weights(selected: Tensor, outside: float) -> Tensor | None:
    return None if selected.min() == 1 else outside + (1 - outside) * selected
