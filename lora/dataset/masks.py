"""The masks of images, which say what of an image is to be learned: files that belong to images, or the opacity of
cut-out images. Says why a file is no usable mask. Knows no tensors.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from lora.dataset.archive import Member, Skipped
from lora.dataset.crops import Crop, crop_box
from lora.dataset.inspection import Inspection
from lora.dataset.mask_settings import WHITE, MaskSettings
from lora.dataset.workers import map_in_order
from lora.images.colors import BRIGHT, OPAQUE
from lora.images.files import is_large
from lora.images.masks import crop_mask, open_mask, open_opacity, turned_with
from lora.images.size import Size


@dataclass(frozen=True, slots=True)
class Mask:
    """The mask of an image, of which the white pixels are to be learned."""

    name: str  # of its file in the archive: for a cut-out, that of the image
    path: Path
    content: str  # sha256 of the file
    is_opacity: bool  # if True, it is the opacity of the image itself
    whitens: bool = False  # if True, the image is put on white where the mask does not select it, before it is encoded
    selected: float | None = None  # the share of white pixels, 0..1; None for an opacity, which is not measured


def mask_line(mask: Mask | None) -> str:
    """A line on where the mask of an image is from; empty without one."""
    if mask is None:
        return ""
    if mask.is_opacity:
        return "mask: its transparency"
    return f"mask: {mask.name}, white outside" if mask.whitens else f"mask: {mask.name}"


@dataclass(frozen=True, slots=True)
class FoundMasks:
    """The masks of a data set."""

    by_image: Mapping[str, Mask]  # the usable ones, by the names of their images
    unusable: tuple[Skipped, ...]  # files that belong to images but are not used, with the reason
    settings: MaskSettings

    def without_used(self, files: Iterable[Skipped]) -> tuple[Skipped, ...]:
        """Those of some files that are not used as masks."""
        used = {mask.name for mask in self.by_image.values() if not mask.is_opacity}
        return tuple(file for file in files if file.name not in used)


def find_masks(
    inspected: Sequence[tuple[Member, Inspection]],
    files: Mapping[str, Member],
    settings: MaskSettings,
    *,
    large: AbstractContextManager[object],
) -> FoundMasks:
    """Find the masks of inspected images: their files, by the names of the images, or the opacity of cut-outs. `large`
    is entered while a large mask is in memory."""
    if not settings.have_effect:
        return FoundMasks({}, (), settings)

    def mask_and_unusable(each: tuple[Member, Inspection]) -> tuple[Mask | None, Skipped | None]:
        image, inspection = each
        own = Mask(image.name, image.path, inspection.content, is_opacity=True) if inspection.is_cutout else None
        file = files.get(image.name)
        if file is None:
            return own, None
        with file.path.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        mask = Mask(file.name, file.path, content, is_opacity=False, whitens=settings.background == WHITE)
        try:
            return replace(mask, selected=_selected_share(mask, image.path, inspection.original, large)), None
        except ValueError as error:
            reason = error
        instead = "the transparency of its image is used" if own else "the image is trained as a whole"
        return own, Skipped(file.name, f"{reason}; {instead}")

    with closing(map_in_order(mask_and_unusable, inspected)) as results:
        found = [(image.name, *result) for (image, _), result in zip(inspected, results, strict=True)]
    return FoundMasks(
        {name: mask for name, mask, _ in found if mask},
        tuple(unusable for _, _, unusable in found if unusable),
        settings,
    )


def crops_of_mask(
    mask: Mask,
    image: Path,
    inspection: Inspection,
    crops: Sequence[Crop],
    *,
    pixels_per_cell: int,
    large: AbstractContextManager[object],
) -> list[Image.Image]:
    """The part of a mask that each crop of its image shows, in 8-bit gray, with a pixel for each square of
    `pixels_per_cell` pixels of the crop: the mean over that square. `large` is entered while a large mask is in
    memory."""
    original = inspection.original
    whole = (0.0, 0.0, float(original.width), float(original.height))

    def cropped(decoded: Image.Image, crop: Crop) -> Image.Image:
        box = crop_box(whole, crop, content=inspection.content)
        size = Size(crop.size.width // pixels_per_cell, crop.size.height // pixels_per_cell)
        return crop_mask(decoded, original, box, size)

    with _opened(mask, image, original, large) as decoded:
        return [cropped(decoded, crop) for crop in crops]


@contextmanager
def _opened(mask: Mask, image: Path, original: Size, large: AbstractContextManager[object]) -> Iterator[Image.Image]:
    """A decoded mask; `large` is held until it is no longer used, as it has the full size of its file."""
    with large if is_large(mask.path) else nullcontext():
        yield open_opacity(mask.path) if mask.is_opacity else turned_with(image, open_mask(mask.path), original)


def _selected_share(mask: Mask, image: Path, original: Size, large: AbstractContextManager[object]) -> float:
    """The share of the pixels of a file that are white. Raises ValueError with the reason if it is not used as a
    mask."""
    with _opened(mask, image, original, large) as decoded:
        levels = np.asarray(decoded)
    darkest, brightest = int(levels.min()), int(levels.max())
    if brightest < BRIGHT:
        raise ValueError(f"it has no white pixel, the brightest is {brightest} of 255")
    if darkest >= OPAQUE:
        raise ValueError("it is entirely white")
    return float(np.mean(levels >= BRIGHT))
