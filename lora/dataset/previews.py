"""How an image of a data set is shown: cropped as in training, and pale outside of its mask."""

from PIL import Image

from lora.dataset.crops import Crop
from lora.dataset.inspection import Inspector
from lora.dataset.masks import crops_of_mask
from lora.dataset.reading import CaptionedImage
from lora.dataset.training_pixels import training_pixels
from lora.images.masks import dimmed


def preview(image: CaptionedImage, crop: Crop, inspector: Inspector) -> Image.Image:
    """A crop of an image in RGB, at its training size."""
    (pixels,) = training_pixels(image, [crop], inspector)
    picture = Image.fromarray(pixels)
    if image.mask is None:
        return picture
    (mask,) = crops_of_mask(image.mask, image.path, image.inspection, [crop], pixels_per_cell=1, large=inspector.large)
    return dimmed(picture, mask)
