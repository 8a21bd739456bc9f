"""Warnings about images and captions that are likely to train badly, each with what to do about it."""

from collections.abc import Iterator

from lora.dataset.caption_advice import missing_captions, warnings_about_captions
from lora.dataset.captions import PromptRule
from lora.dataset.photo_advice import findings_about_photos
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.role_advice import warnings_about_roles
from lora.dataset.wording import counted

FEW_IMAGES = 5  # fewer than this get a warning; our choice
Images = list[CaptionedImage]


def warnings_about(
    dataset: Dataset, similar: list[Images], *, rule: PromptRule, resolutions: tuple[int, ...]
) -> Iterator[str]:
    """Yield the warnings: captions that are missing as a whole, then the images, then single captions. `similar` holds
    groups of images that look the same."""
    images = list(dataset.images)
    by_people = dataset.without_captions_by_models()
    yield from missing_captions(by_people, rule)
    if len(images) < FEW_IMAGES:
        noun, kind = (
            ("pair", "of different pictures") if dataset.has_references else ("image", "in different places and light")
        )
        yield f"only {counted(len(images), noun)}: ten or more, {kind}, give much better results"
    for finding in findings_about_photos(images, similar, resolution=min(resolutions)):
        yield finding.sentence
    yield from warnings_about_captions(by_people, rule)
    yield from warnings_about_roles(dataset, rule)
