"""The settings that the images of a request depend on, for their files and the log. Generates nothing."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from lora.images.size import Size
from lora.serving.lora_merger import AppliedLora
from lora.serving.reference_images import ReferenceImage
from lora.serving.request import Request
from lora.serving.sources import Source


def settings_of(
    request: Request,
    source: Source | None,
    size: Size,
    *,
    model: str,
    image: Path | None,
    mask: Path | None,
    loras: Sequence[AppliedLora],
    references: Sequence[ReferenceImage] = (),
) -> dict[str, object]:
    """Return all settings except the seeds, as plain values by name.

    `size` is the size of the images. The files `image` and `mask`, and those of the reference images, are identified by
    their sha256.
    """
    reference_settings = {"reference_images": [_digest(each.file) for each in references]} if references else {}
    source_settings = (
        {"image": _digest(image), "mask": _digest(mask), "prompt_strength": source.strength} if source else {}
    )
    return {
        **request.settings(),
        "width": size.width,
        "height": size.height,
        "model": model,
        **source_settings,
        **reference_settings,
        "loras": [(lora.digest, lora.scale) for lora in loras if lora.scale],
    }


def _digest(path: Path | None) -> str | None:
    if path is None:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
