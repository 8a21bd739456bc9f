"""What of a data set is likely to train badly, each in a sentence that says what to do about it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from lora.dataset.captions import PromptRule
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.sizes import MOST_UPSCALING
from lora.dataset.wording import SHOWN, counted, named

FEW_IMAGES = 5
BLURRED = 0.002  # sharpness below which a picture is very blurred; see perceptual_hash.py
Images = list[CaptionedImage]


def warnings_about(
    dataset: Dataset, alike: list[Images], *, rule: PromptRule, resolutions: tuple[int, ...]
) -> Iterator[str]:
    """The warnings, those about the pictures first; `alike` are groups of images that look the same."""
    images = list(dataset.images)
    if len(images) < FEW_IMAGES:
        yield f"only {counted(len(images), 'image')}: ten or more, in different places and light, train far better"
    yield from _about_copies(images, alike)
    yield from _about_quality(images, min(resolutions))
    yield from _about_captions(images, rule)
    yield from _about_caption_files(dataset)


def _about_copies(images: Images, alike: list[Images]) -> Iterator[str]:
    copies: dict[str, Images] = defaultdict(list)
    for image in images:
        copies[image.look.content].append(image)
    yield from _about_groups(copies.values(), "are the same file: its background is learned with it; keep one")
    different = [list({image.look.content: image for image in group}.values()) for group in alike]
    yield from _about_groups(different, "look almost the same: keep the best, or their background is learned too")


def _about_groups(groups: Iterable[Images], fault: str) -> Iterator[str]:
    found = [group for group in groups if len(group) > 1]
    for group in found[:SHOWN]:
        yield f"{named([image.name for image in group])} {fault}"
    if len(found) > SHOWN:
        yield f"and so in {counted(len(found) - SHOWN, 'more group')}"


def _about_quality(images: Images, resolution: int) -> Iterator[str]:
    small = [
        f"{image.name} ({image.look.original})"
        for image in images
        if image.look.original.pixels * MOST_UPSCALING**2 < resolution**2
    ]
    if small:
        yield f"smaller than {resolution}x{resolution}, and trained as they are: {named(small)}"
    blurred = [image.name for image in images if 0 < image.look.sharpness < BLURRED]
    if blurred:
        yield f"very blurred, and learned like that: {named(blurred)}"
    animated = [image.name for image in images if image.look.is_animated]
    if animated:
        yield f"of animations and files of several pages the first picture is trained: {named(animated)}"


def _about_captions(images: Images, rule: PromptRule) -> Iterator[str]:
    captions = {image.name: image.caption.text for image in images if image.caption}
    bare = [image.name for image in images if not image.caption]
    if bare and captions:
        yield f"{counted(len(bare), 'image')} without a caption: {named(bare)}"
    if len(captions) > 1 and len(set(captions.values())) == 1:
        yield "all captions are the same: what differs between the images goes into captions, what is learned does not"
    silent = [name for name, text in captions.items() if not rule.mentions_trigger(text)]
    if rule.trigger_word and silent:
        which = "all captions" if len(silent) == len(captions) else counted(len(silent), "caption")
        yield f"{which} without {rule.trigger_word!r}: it is put in front; 'a photo of [trigger] ...' reads better"
    shared = Counter(id(image.caption) for image in images if image.caption)
    sharers = [image.name for image in images if shared[id(image.caption)] > 1]
    if sharers:
        yield f"one caption serves several images of the same name: {named(sharers)}"


def _about_caption_files(dataset: Dataset) -> Iterator[str]:
    unused, conflicting = dataset.pairing.unused, dataset.pairing.conflicting
    if unused:
        targets = named([f"{caption.target} in {caption.source}" for caption in unused])
        yield f"{counted(len(unused), 'caption')} without an image of that name: {targets}"
    if conflicting:
        sources = named(sorted({caption.source for caption in conflicting}))
        yield f"some images have two captions that differ; those in {sources} are not used"
    if dataset.guessed:
        taken = named([f"{file.name} as {file.encoding}" for file in dataset.guessed])
        yield f"not in UTF-8, and taken for what it looks like: {taken}"
