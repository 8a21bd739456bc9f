"""Warnings about images and captions that are likely to train badly, each with what to do about it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from lora.dataset.captions import PromptRule
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.sizes import MAX_UPSCALING
from lora.dataset.wording import SHOWN, counted, named

FEW_IMAGES = 5  # fewer than this get a warning; our choice
BLURRED = 0.002  # sharpness below which an image is very blurred: between the ranges in similarity.py's `sharpness`
Images = list[CaptionedImage]


def warnings_about(
    dataset: Dataset, similar: list[Images], *, rule: PromptRule, resolutions: tuple[int, ...]
) -> Iterator[str]:
    """Yield the warnings, those about the images first. `similar` holds groups of images that look the same."""
    images = list(dataset.images)
    if len(images) < FEW_IMAGES:
        count = counted(len(images), "image")
        yield f"only {count}: ten or more, in different places and light, give much better results"
    yield from _about_duplicates(images, similar)
    yield from _about_quality(images, min(resolutions))
    yield from _about_captions(list(dataset.without_captions_by_models().images), rule)
    yield from _about_caption_files(dataset)


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


def _about_captions(images: Images, rule: PromptRule) -> Iterator[str]:
    captions = {image.name: image.caption.text for image in images if image.caption}
    uncaptioned = [image.name for image in images if not image.caption]
    if uncaptioned and captions:
        yield f"{counted(len(uncaptioned), 'image')} without a caption: {named(uncaptioned)}"
    if len(captions) > 1 and len(set(captions.values())) == 1:
        yield "all captions are the same: describe what differs between the images, not what the LoRA should learn"
    without_trigger = [name for name, text in captions.items() if not rule.mentions_trigger(text)]
    if rule.trigger_word and without_trigger:
        which = "all captions" if len(without_trigger) == len(captions) else counted(len(without_trigger), "caption")
        yield f"{which} without {rule.trigger_word!r}: it is put in front; 'a photo of [trigger] ...' works better"
    shared = Counter(id(image.caption) for image in images if image.caption)
    sharing = [image.name for image in images if shared[id(image.caption)] > 1]
    if sharing:
        yield f"one caption is used for several images of the same name: {named(sharing)}"


def _about_caption_files(dataset: Dataset) -> Iterator[str]:
    unused, conflicting = dataset.pairing.unused, dataset.pairing.conflicting
    if unused:
        targets = named([f"{caption.target} in {caption.source}" for caption in unused])
        yield f"{counted(len(unused), 'caption')} without an image of that name: {targets}"
    if conflicting:
        sources = named(sorted({caption.source for caption in conflicting}))
        yield f"some images have two different captions; those in {sources} are not used"
    if dataset.guessed_encodings:
        encodings = named([f"{file.name} as {file.encoding}" for file in dataset.guessed_encodings])
        yield f"not in UTF-8, so the encoding was guessed: {encodings}"
