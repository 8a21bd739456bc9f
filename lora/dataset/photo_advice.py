"""What is worth a look about photos: copies, blur, hardly any contrast, few pixels.

Each finding is a sentence for the log, and a mark for each image that it is about.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lora.dataset.reading import CaptionedImage
from lora.dataset.sizes import MAX_UPSCALING
from lora.dataset.tones import FADED_TONES
from lora.dataset.wording import SHOWN, counted, named

BLURRED = 1.2  # pixels of the training size: above the photographs in focus that docs/dataset.md names
Images = Sequence[CaptionedImage]


@dataclass(frozen=True, slots=True)
class Mark:
    """What is worth a look about one image, in a few words."""

    image: str  # name in the archive
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is worth a look: a sentence, and the images that it is about."""

    sentence: str
    marks: tuple[Mark, ...]


def findings_about_photos(images: Images, similar: Sequence[Images], *, resolution: int) -> Iterator[Finding]:
    """Yield the findings; `similar` holds groups of near-duplicates, `resolution` is the smallest of the training."""
    yield from _about_copies(images)
    yield from _about_near_duplicates(similar)
    yield from _about_unchanged(images)
    yield from _about_small_images(images, resolution)
    yield from _about_blur(images)
    yield from _about_tones(images)
    animated = [Mark(image.name, "only its first frame") for image in images if image.inspection.is_animated]
    if animated:
        names = named([mark.image for mark in animated])
        yield Finding(f"only the first image of animations and multi-page files is used: {names}", tuple(animated))


def _about_copies(images: Images) -> Iterator[Finding]:
    copies: dict[tuple[str, ...], list[CaptionedImage]] = defaultdict(list)
    for image in images:
        copies[image.inspection.content, *(each.content for each in image.references)].append(image)
    problem = "are the same file: keep one, or its background is learned too"
    yield from _about_groups(copies.values(), problem, mark="same file as")


def _about_near_duplicates(similar: Sequence[Images]) -> Iterator[Finding]:
    distinct = [
        list({image.inspection.content: image for image in reversed(group)}.values())[::-1] for group in similar
    ]
    problem = "look almost the same: keep the best one, or their background is learned too"
    yield from _about_groups(distinct, problem, mark="looks like")


def _about_unchanged(images: Images) -> Iterator[Finding]:
    unchanged = [
        image.name for image in images if image.inspection.content in {each.content for each in image.references}
    ]
    if unchanged:
        sentence = f"the same file as their reference, which teaches to change nothing: {named(unchanged)}"
        yield Finding(sentence, tuple(Mark(name, "same file as its reference") for name in unchanged))


def _about_groups(groups: Iterable[Images], problem: str, *, mark: str) -> Iterator[Finding]:
    """A finding for each of the first groups of two or more images, and one for all others."""
    found = [group for group in groups if len(group) > 1]
    for group in found[:SHOWN]:
        yield Finding(f"{named([image.name for image in group])} {problem}", _group_marks(group, mark))
    if len(found) > SHOWN:
        more = tuple(each for group in found[SHOWN:] for each in _group_marks(group, mark))
        yield Finding(f"and {counted(len(found) - SHOWN, 'more group')} like that", more)


def _group_marks(group: Images, mark: str) -> tuple[Mark, ...]:
    """Each image of a group names the first one; that names the second."""
    first, second = group[0].name, group[1].name
    return Mark(first, f"{mark} {second}"), *(Mark(image.name, f"{mark} {first}") for image in group[1:])


def _about_small_images(images: Images, resolution: int) -> Iterator[Finding]:
    small = [image for image in images if image.inspection.original.pixels * MAX_UPSCALING**2 < resolution**2]
    if small:
        names = named([f"{image.name} ({image.inspection.original})" for image in small])
        sentence = f"smaller than {resolution}x{resolution}, and trained at their own size: {names}"
        yield Finding(sentence, tuple(Mark(image.name, f"small: {image.inspection.original}") for image in small))


def _about_blur(images: Images) -> Iterator[Finding]:
    blurred = [image.name for image in images if (image.inspection.blur or 0.0) > BLURRED]
    if blurred:
        sentence = f"blurred at the size they are trained at, which the LoRA will learn: {named(blurred)}"
        yield Finding(sentence, tuple(Mark(name, "blurred") for name in blurred))


def _about_tones(images: Images) -> Iterator[Finding]:
    faults = {image.name: image.inspection.tones.fault() for image in images}
    found = [Mark(name, fault) for name, fault in faults.items() if fault]
    empty = [mark for mark in found if mark.text != FADED_TONES]
    faded = [mark for mark in found if mark.text == FADED_TONES]
    if empty:
        names = named([f"{mark.image} ({mark.text})" for mark in empty])
        yield Finding(f"of one color, with nothing to learn from: remove {names}", tuple(empty))
    if faded:
        names = named([mark.image for mark in faded])
        yield Finding(f"faded, with hardly any contrast, which the LoRA will learn: {names}", tuple(faded))
