"""The pixels of an image as it is trained: on white where the file of its mask does not select it, as a cut-out image
is where it is transparent."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
from PIL import Image

from lora.dataset.crops import Crop
from lora.dataset.inspection import Inspector
from lora.dataset.masks import crops_of_mask
from lora.dataset.pixels import Pixels
from lora.dataset.reading import CaptionedImage
from lora.images.files import NO_LOCK
from lora.images.masks import on_white


def training_pixels(image: CaptionedImage, crops: Sequence[Crop], inspector: Inspector) -> list[Pixels]:
    """Pixels [H, W, 3] of some crops of an image."""
    pixels = inspector.pixels(image.path, image.inspection.content, crops)
    if not image.is_on_white:
        return pixels
    pictures = with_background(image, [Image.fromarray(each) for each in pixels], crops, large=inspector.large)
    return [np.asarray(picture) for picture in pictures]


def with_background(
    image: CaptionedImage,
    pictures: Sequence[Image.Image],
    crops: Sequence[Crop],
    *,
    large: AbstractContextManager[object] = NO_LOCK,
) -> list[Image.Image]:
    """Pictures of some crops of an image, each of the crop's size, as they are trained. `large` is entered while a
    large mask is in memory."""
    if image.mask is None or not image.is_on_white:
        return list(pictures)
    masks = crops_of_mask(image.mask, image.path, image.inspection, crops, pixels_per_cell=1, large=large)
    return [on_white(picture, mask) for picture, mask in zip(pictures, masks, strict=True)]
