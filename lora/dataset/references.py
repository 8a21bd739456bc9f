"""The references of images: what each looked like before the edit that a LoRA is to learn. Says what is wrong with a
data set of such pairs. Knows no tensors.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora.dataset.archive import Member
from lora.dataset.crops import SMALLEST_CROP, WHOLE, Crop, crop_box
from lora.dataset.inspection import Inspection, reduced
from lora.dataset.names import quoted
from lora.dataset.pixels import Pixels
from lora.dataset.refusal import ContentError
from lora.dataset.selection import Selection
from lora.dataset.sizes import STEP
from lora.dataset.sorting import SortedFiles
from lora.dataset.thumbnails import Thumbnail
from lora.dataset.wording import counted
from lora.images.files import open_image
from lora.images.size import Size, cover_scale, have_same_shape

MAX_REFERENCES = 4  # of an image, as hosted trainers of FLUX.2 take; each takes as long in a step as the image itself
EXPECTED = (
    "lora_type edit expects what each image was before the edit, such as photo_reference.png beside photo.png,"
    " photo_start.png beside photo_end.png, or a file of the same name in a folder references/"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference of an image."""

    name: str  # of its file in the archive
    path: Path
    content: str  # sha256 of the file
    original: Size  # upright
    thumbnail: Thumbnail


def refuse_unpaired(files: SortedFiles, selection: Selection) -> None:
    """Raise ContentError with one sentence unless every trained image has 1 to 4 references, and every reference
    belongs to a trained image."""
    names = {image.name for image in files.trained}
    if names and not any(files.references.values()):
        raise ContentError(f"holds {counted(len(names), 'image')} and no reference: {EXPECTED}")
    for partner, references in files.references.items():
        first = references[0].name
        if partner is None and selection.roles[first].is_ambiguous:
            raise ContentError(
                f"holds the reference {quoted(first)} and several images of that name: expected one, so give them"
                " different names"
            )
        if partner not in names:
            raise ContentError(
                f"holds the reference {quoted(first)} without an image of that name that is trained: expected both;"
                " add the image, or remove the reference"
            )
        if len(references) > MAX_REFERENCES:
            count = counted(len(references), "reference")
            raise ContentError(
                f"holds {count} of {quoted(str(partner))}: expected at most {MAX_REFERENCES} of an image"
            )
    alone = [image.name for image in files.trained if image.name not in files.references]
    if alone:
        which = f"{quoted(alone[0])} without a reference" + (f", and {len(alone) - 1} more" if alone[1:] else "")
        raise ContentError(f"holds {which}: {EXPECTED}")


def inspect_references(
    files: Sequence[Member], image: Inspection, *, large: AbstractContextManager[object]
) -> tuple[Reference, ...]:
    """Decode the references of an inspected image. `large` is entered while a large one is in memory. Raises ValueError
    with the name and the reason if one cannot be used."""
    return tuple(_inspected(file, image, large) for file in files)


def _inspected(file: Member, image: Inspection, large: AbstractContextManager[object]) -> Reference:
    pixels = max(size.pixels for size in image.sizes)
    try:
        decoded = open_image(file.path, lambda stored: math.sqrt(pixels / stored.pixels), large=large)
    except ValueError as error:
        raise ValueError(f"its reference {quoted(file.name)} cannot be used: {error}") from error
    with file.path.open("rb") as opened:
        content = hashlib.file_digest(opened, "sha256").hexdigest()
    return Reference(file.name, file.path, content, decoded.original, Thumbnail.of(reduced(decoded.image)))


def crop_of_reference(reference: Reference, image: Inspection, crop: Crop) -> Crop:
    """The crop of a reference for a crop of its image: the same if both have the same shape, otherwise one of about the
    same area in the reference's own shape, with sides that are multiples of 16 pixels."""
    if have_same_shape(reference.original, image.original):
        return crop
    scale = math.sqrt(crop.size.pixels / reference.original.pixels)
    width, height = (
        max(round(side * scale / STEP), 1) * STEP for side in (reference.original.width, reference.original.height)
    )
    return Crop(Size(width, height), crop.number)


def crops_of_reference(reference: Reference, image: Inspection) -> tuple[Crop, ...]:
    """The crops of a reference for all crops of its image, each once."""
    return tuple(dict.fromkeys(crop_of_reference(reference, image, crop) for crop in image.crops))


def appearance_of_reference(reference: Reference, image: Inspection) -> str:
    """A sha256 that is equal for references with the same crops, which show the same: random ones are the image's."""
    crops = crops_of_reference(reference, image)
    is_cropped = any(crop.number != WHOLE for crop in crops)
    parts = ("reference", reference.content, *map(str, crops), *([image.content] if is_cropped else []))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def reference_pixels(
    reference: Reference, image: Inspection, crops: Sequence[Crop], *, large: AbstractContextManager[object]
) -> list[Pixels]:
    """Pixels [H, W, 3] of some crops of a reference. A random crop shows the same part as that of its image. `large` is
    entered while a large reference is in memory."""
    enlarged = 1.0 if all(crop.number == WHOLE for crop in image.crops) else 1 / SMALLEST_CROP
    sizes = [crop.size for crop in crops_of_reference(reference, image)]
    needed = max(cover_scale(reference.original, size) for size in sizes) * enlarged
    decoded = open_image(reference.path, lambda _: needed, large=large)
    boxes = [crop_box(decoded.box, crop, content=image.content) for crop in crops]
    return [np.asarray(decoded.fitted(crop.size, box)) for crop, box in zip(crops, boxes, strict=True)]


def reference_lines(references: Sequence[Reference]) -> Iterator[str]:
    """A line on the references of an image, if it has any."""
    if references:
        yield f"reference: {', '.join(each.name for each in references)}"
