"""Notes for the log on inputs that are ignored or truncated. Generates nothing."""

from collections.abc import Iterator

from diffusers import DiffusionPipeline

from lora.families.registry import family_of_model
from lora.images.size import Size
from lora.serving.request import CUSTOM, Request
from lora.serving.sources import Source

BLACK = (0, 0)
NO_NEGATIVE = "with this guidance has no second pass that could use it"
UNCHOSEN = "1:1"  # the default of aspect_ratio, which most requests with an image leave as it is


def notes(
    pipeline: DiffusionPipeline,
    request: Request,
    source: Source | None,
    size: Size,
    *,
    are_sides_given: bool,
) -> Iterator[str]:
    """Yield one sentence for each input that has less effect than it seems to.

    `size` is the size at which the images are generated; `are_sides_given` says whether width or height is given.
    """
    family = family_of_model(pipeline)
    count, most = family.text.count(pipeline, request.prompt), family.text.length(pipeline)
    if count > most:
        yield f"the prompt has {count} tokens, but the base reads only the first {most}"
    if request.negative_prompt and not family.sampling.needs_negative(pipeline, request.guidance_scale):
        yield f"negative_prompt is ignored, because {family.name} {NO_NEGATIVE}"
    if request.aspect_ratio != CUSTOM and are_sides_given:
        yield f"width and height are ignored, because aspect_ratio is {request.aspect_ratio}, not {CUSTOM}"
    if source and request.aspect_ratio not in (CUSTOM, UNCHOSEN):
        yield f"aspect_ratio {request.aspect_ratio} is ignored, because the output has the shape of the image"
    mask = source and source.fitted_mask(size)
    if mask and mask.getextrema() == BLACK:
        yield "the mask is black everywhere, so nothing of the image is regenerated"
    elif source and request.aspect_ratio == CUSTOM:
        yield "width and height are ignored, because the output has the shape of the image"
