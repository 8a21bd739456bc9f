"""Warnings about images and captions that are likely to train badly, each with what to do about it."""

from collections import Counter
from collections.abc import Iterator

from lora.dataset.captions import PromptRule
from lora.dataset.photo_advice import findings_about_photos
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.wording import counted, named

FEW_IMAGES = 5  # fewer than this get a warning; our choice
Images = list[CaptionedImage]


def warnings_about(
    dataset: Dataset, similar: list[Images], *, rule: PromptRule, resolutions: tuple[int, ...]
) -> Iterator[str]:
    """Yield the warnings, those about the images first. `similar` holds groups of images that look the same."""
    images = list(dataset.images)
    if len(images) < FEW_IMAGES:
        count = counted(len(images), "image")
        yield f"only {count}: ten or more, in different places and light, give much better results"
    for finding in findings_about_photos(images, similar, resolution=min(resolutions)):
        yield finding.sentence
    yield from _about_captions(images, rule)
    yield from _about_caption_files(dataset)


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
