"""Warnings about images and captions that are likely to train badly, each with what to do about it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from lora.dataset.caption_advice import missing_captions, warnings_about_captions
from lora.dataset.captions import PromptRule
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.role_advice import warnings_about_roles
from lora.dataset.sizes import MAX_UPSCALING
from lora.dataset.wording import SHOWN, counted, named

FEW_IMAGES = 5  # fewer than this get a warning; our choice
BLURRED = 0.002  # sharpness below which an image is very blurred: between the ranges in similarity.py's `sharpness`
Images = list[CaptionedImage]


def warnings_about(
    dataset: Dataset, similar: list[Images], *, rule: PromptRule, resolutions: tuple[int, ...]
) -> Iterator[str]:
    """Yield the warnings: captions that are missing as a whole, then the images, then single captions. `similar` holds
    groups of images that look the same."""
    images = list(dataset.images)
    yield from missing_captions(dataset, rule)
    if len(images) < FEW_IMAGES:
        count = counted(len(images), "image")
        yield f"only {count}: ten or more, in different places and light, give much better results"
    yield from _about_duplicates(images, similar)
    yield from _about_quality(images, min(resolutions))
    yield from warnings_about_captions(dataset, rule)
    yield from warnings_about_roles(dataset, rule)


def _about_duplicates(images: Images, similar: list[Images]) -> Iterator[str]:
    copies: dict[str, Images] = defaultdict(list)
    for image in images:
        copies[image.inspection.content].append(image)
    yield from _about_groups(copies.values(), "are the same file: keep one, or its background is learned too")
    distinct = [list({image.inspection.content: image for image in group}.values()) for group in similar]
    yield from _about_groups(distinct, "look almost the same: keep the best one, or their background is learned too")


def _about_groups(groups: Iterable[Images], problem: str) -> Iterator[str]:
    found = [group for group in groups if len(group) > 1]
    for group in found[:SHOWN]:
        yield f"{named([image.name for image in group])} {problem}"
    if len(found) > SHOWN:
        yield f"and {counted(len(found) - SHOWN, 'more group')} like that"


def _about_quality(images: Images, resolution: int) -> Iterator[str]:
    small = [
        f"{image.name} ({image.inspection.original})"
        for image in images
        if image.inspection.original.pixels * MAX_UPSCALING**2 < resolution**2
    ]
    if small:
        yield f"smaller than {resolution}x{resolution}, and trained at their own size: {named(small)}"
    blurred = [image.name for image in images if 0 < image.inspection.sharpness < BLURRED]
    if blurred:
        yield f"very blurred, which the LoRA will learn: {named(blurred)}"
    animated = [image.name for image in images if image.inspection.is_animated]
    if animated:
        yield f"only the first image of animations and multi-page files is used: {named(animated)}"
