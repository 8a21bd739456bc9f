"""What a person should know of a request that is drawn, but not quite as it was written. Draws nothing."""

from collections.abc import Iterator

from diffusers import FluxPipeline

from lora.flux.prompt import text_tokens, token_count
from lora.images.size import Size
from lora.serving.request import CUSTOM, Request
from lora.serving.sources import Source

BLACK = (0, 0)


def notes(
    pipeline: FluxPipeline,
    request: Request,
    source: Source | None,
    size: Size,
    *,
    width: int | None,
    height: int | None,
) -> Iterator[str]:
    """One sentence for each input that does less than was asked of it; `size` is that of the images."""
    count, most = token_count(pipeline, request.prompt), text_tokens(pipeline)
    if count > most:
        yield f"the prompt has {count} tokens, of which the first {most} are read"
    if request.aspect_ratio != CUSTOM and (width or height):
        yield f"width and height are not looked at, as aspect_ratio is {request.aspect_ratio}, not {CUSTOM}"
    mask = source and source.fitted_mask(size)
    if mask and mask.getextrema() == BLACK:
        yield "the mask is black everywhere, so the image stays as it is"
    elif source and request.aspect_ratio == CUSTOM:
        yield "the shape of the image counts, not width and height"
