"""What images of a request depend on, as plain values: for their files and for the log. Draws nothing."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from lora.images.size import Size
from lora.serving.lora_merger import AppliedLora
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
    outfit: Sequence[AppliedLora],
) -> dict[str, object]:
    """All but the seeds. `size` is what they are drawn at; the files of the source are told by their sha256."""
    begun = {"image": _digest(image), "mask": _digest(mask), "prompt_strength": source.strength} if source else {}
    return {
        **request.settings(),
        "width": size.width,
        "height": size.height,
        "model": model,
        **begun,
        "loras": [(worn.digest, worn.scale) for worn in outfit if worn.scale],
    }


def _digest(path: Path | None) -> str | None:
    if path is None:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
