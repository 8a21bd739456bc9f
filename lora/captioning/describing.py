"""Asks a captioner about images, in batches of one size, and makes captions of its answers."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from PIL import Image

from lora.base.components import FAILURES
from lora.captioning.answer_store import AnswerStore
from lora.captioning.answers import caption_of
from lora.captioning.captioner import Captioner
from lora.dataset.captions import PromptRule
from lora.dataset.crops import WHOLE, Crop
from lora.dataset.names import sanitize_path
from lora.dataset.pairing import Caption
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.training_pixels import with_background
from lora.engine.out_of_memory import is_out_of_memory
from lora.images.files import open_image, quiet_pillow
from lora.images.size import Size

LONGEST_SIDE = 768  # pixels; 576 tokens of Qwen3-VL for a square, which has one for 32 x 32 pixels
LONGEST_REASON = 160  # characters of a library's message
RANK = 1000  # after every caption of a person


@dataclass(frozen=True, slots=True)
class Described:
    """A data set after captioning."""

    dataset: Dataset
    failures: tuple[str, ...]  # "name (reason)" of each image that was to be described and has no caption


def uncaptioned(dataset: Dataset) -> list[CaptionedImage]:
    """The images without a caption; one of all copies of a file."""
    return list({image.appearance: image for image in dataset.images if image.caption is None}.values())


def ask(
    captioner: Captioner,
    images: Iterable[CaptionedImage],
    instruction: str,
    store: AnswerStore,
    *,
    batch_size: int,
    check: Callable[[], None],
    report: Callable[[int], object],
) -> dict[str, str]:
    """Store the answers for images; return the reason by content for each image that the captioner fails at.

    `check` is called before each batch, and ends the work by an exception; `report` is given the number of images after
    each. Raises what `is_out_of_memory` recognizes, and MemoryError.
    """
    failures: dict[str, str] = {}
    done = 0
    with quiet_pillow():
        for batch in _batches(images, batch_size):
            check()
            failed = _ask_batch(captioner, batch, instruction, store)
            check()  # the failure may be that of an earlier call of it, inside the model
            if failed and len(batch) > 1:
                failed = {}
                for image in batch:
                    failed |= _ask_batch(captioner, [image], instruction, store)
                    check()
            failures |= failed
            done += len(batch)
            report(done)
    return failures


def described(
    dataset: Dataset, store: AnswerStore, failures: Mapping[str, str], *, name: str, rule: PromptRule
) -> Described:
    """The data set with the stored answers as captions of images that have none. `name` is that of the captioner, and
    `failures` holds why an image has no answer, by content."""
    images, failed = [], []
    for image in dataset.images:
        if image.caption is None:
            text, reason = _caption(store, image, failures)
            if text:
                source, target = f"the captioner {name}", sanitize_path(image.name)
                caption = Caption(text, source, target, RANK, by_model=True)
                image = replace(image, caption=caption, prompts=rule.prompts(text))  # noqa: PLW2901 - the same image
            else:
                failed.append(f"{image.name} ({reason})")
        images.append(image)
    return Described(replace(dataset, images=tuple(images)), tuple(failed))


def _caption(store: AnswerStore, image: CaptionedImage, failures: Mapping[str, str]) -> tuple[str, str]:
    """The caption, or else the reason why there is none."""
    content = image.appearance
    answer = store.get(content)
    if answer is None:
        return "", failures.get(content, "the captioner was not asked")
    try:
        return caption_of(answer), ""
    except ValueError as error:
        return "", str(error)


def _ask_batch(
    captioner: Captioner, batch: Sequence[CaptionedImage], instruction: str, store: AnswerStore
) -> dict[str, str]:
    """Store the answers for a batch; or return the reason for each of its images."""
    try:
        answers = captioner.answers([_pixels(image) for image in batch], instruction)
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")[:LONGEST_REASON]
        return {image.appearance: reason for image in batch}
    for image, answer in zip(batch, answers, strict=True):
        store.put(image.appearance, answer)
    return {}


def _batches(images: Iterable[CaptionedImage], batch_size: int) -> Iterator[list[CaptionedImage]]:
    """Batches of images that have one size when they are described, so that none is padded; in an order that depends
    only on the images."""
    ordered = sorted(images, key=lambda image: (_described_size(image), image.appearance))
    for _, group in groupby(ordered, key=_described_size):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]


def _described_size(image: CaptionedImage) -> Size:
    original = image.inspection.original
    scale = _scale(original)
    return Size(max(round(original.width * scale), 1), max(round(original.height * scale), 1))


def _scale(original: Size) -> float:
    return min(LONGEST_SIDE / max(original.width, original.height), 1.0)


def _pixels(image: CaptionedImage) -> Image.Image:
    """The image as it is trained, so that a caption does not name what a mask keeps out."""
    size = _described_size(image)
    (picture,) = with_background(image, [open_image(image.path, _scale).fitted(size)], [Crop(size, WHOLE)])
    return picture
