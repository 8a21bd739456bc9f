"""The reference images of a request, which some bases see beside the prompt. Knows files, no pipeline."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lora.images.files import open_image, quiet_pillow
from lora.serving.sources import MAX_PIXELS

NAMES = ("reference_images", "images")  # of one input: ours, and that of FLUX.2 [klein] on Replicate
MAX_IMAGES = 4

Fit = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """A reference image, upright, at the size that is encoded."""

    image: Image.Image  # RGB
    file: Path  # as uploaded


def given_references(inputs: Mapping[str, Any]) -> str | None:
    """Return the name of the input that has reference images; None if no input has any.

    `inputs` have lists of paths. Raises ValueError with one sentence if both inputs have some, or one has too many.
    """
    given = [name for name in NAMES if inputs[name]]
    if len(given) > 1:
        raise ValueError(
            f"{' and '.join(given)} are both given: expected only one of them, because they are two names of one input"
        )
    for name in given:
        if (count := len(inputs[name])) > MAX_IMAGES:
            raise ValueError(f"{name} holds {count} images: expected at most {MAX_IMAGES}")
    return given[0] if given else None


def read_references(inputs: Mapping[str, Any], *, fit: Fit) -> tuple[ReferenceImage, ...]:
    """Read the reference images from the inputs of a request; `fit` brings each to the size that a base encodes.

    Only that size is kept: several large images would take much memory. Raises ValueError with one sentence that names
    the input.
    """
    name = given_references(inputs)
    files = enumerate(inputs[name]) if name else ()
    return tuple(ReferenceImage(fit(_image(f"{name}[{index}]", file)), file) for index, file in files)


def _image(name: str, file: Path) -> Image.Image:
    try:
        with quiet_pillow():
            return open_image(file, most_pixels=MAX_PIXELS).image
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
