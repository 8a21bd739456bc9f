"""How an image of a data set is shown: cropped as in training, pale outside of its mask, and beside its references."""

from PIL import Image

from lora.dataset.crops import Crop
from lora.dataset.inspection import Inspector
from lora.dataset.masks import crops_of_mask
from lora.dataset.reading import CaptionedImage
from lora.dataset.references import crop_of_reference, reference_pixels
from lora.dataset.training_pixels import training_pixels
from lora.images.masks import dimmed

GAP = 1 / 64  # between an image and its references, as a share of its height; our choice


def preview(image: CaptionedImage, crop: Crop, inspector: Inspector) -> Image.Image:
    """A crop of an image in RGB at its training size, to the right of its references in the same height."""
    pictures = [*reference_pictures(image, crop, inspector), _picture(image, crop, inspector)]
    return pictures[0] if len(pictures) == 1 else _side_by_side(pictures)


def reference_pictures(image: CaptionedImage, crop: Crop, inspector: Inspector) -> list[Image.Image]:
    """The references of an image in RGB, as they are trained with a crop of it."""
    crops = [(each, crop_of_reference(each, image.inspection, crop)) for each in image.references]
    loaded = (reference_pixels(each, image.inspection, [its], large=inspector.large) for each, its in crops)
    return [Image.fromarray(pixels) for (pixels,) in loaded]


def _side_by_side(pictures: list[Image.Image]) -> Image.Image:
    """Pictures in the height of the last one, from left to right."""
    height = pictures[-1].height
    gap, scaled = max(round(height * GAP), 1), []
    for picture in pictures:
        width = max(round(picture.width * height / picture.height), 1)
        scaled.append(picture if picture.height == height else picture.resize((width, height)))
    sheet = Image.new("RGB", (sum(each.width + gap for each in scaled) - gap, height), "white")
    left = 0
    for picture in scaled:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet


def _picture(image: CaptionedImage, crop: Crop, inspector: Inspector) -> Image.Image:
    (pixels,) = training_pixels(image, [crop], inspector)
    picture = Image.fromarray(pixels)
    if image.mask is None:
        return picture
    (mask,) = crops_of_mask(image.mask, image.path, image.inspection, [crop], pixels_per_cell=1, large=inspector.large)
    return dimmed(picture, mask)
