"""Notes for the log on inputs that are ignored or truncated. Generates nothing."""

from collections.abc import Iterator

from diffusers import DiffusionPipeline

from lora.base.family import Family
from lora.families.registry import family_of_model
from lora.images.size import Size
from lora.serving.request import CUSTOM, SQUARE, Request
from lora.serving.sources import Source

BLACK = (0, 0)


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
    yield from _notes_on_guidance(pipeline, request)
    if request.aspect_ratio != CUSTOM and are_sides_given:
        yield f"width and height are ignored, because aspect_ratio is {request.aspect_ratio}, not {CUSTOM}"
    if source and request.aspect_ratio not in (CUSTOM, SQUARE):  # a square is what an open aspect_ratio becomes
        yield f"aspect_ratio {request.aspect_ratio} is ignored, because the output has the shape of the image"
    mask = source and source.fitted_mask(size)
    if mask and mask.getextrema() == BLACK:
        yield "the mask is black everywhere, so nothing of the image is regenerated"
    elif source and request.aspect_ratio == CUSTOM:
        yield "width and height are ignored, because the output has the shape of the image"


def _notes_on_guidance(pipeline: DiffusionPipeline, request: Request) -> Iterator[str]:
    """Those on the prompts, and on the guidance that leads from one to the other."""
    family, guidance = family_of_model(pipeline), request.guidance_scale
    sampling, negative = family.sampling, request.negative_prompt
    yield from _note_on_length(pipeline, "the prompt", request.prompt)
    if not sampling.takes_guidance(pipeline) and guidance != sampling.distilled.guidance:
        yield f"guidance_scale {guidance:g} is ignored, because the base is distilled and takes none"
    if negative and sampling.needs_negative(pipeline, guidance):
        yield from _note_on_length(pipeline, "negative_prompt", negative)
    elif negative:
        yield f"negative_prompt is ignored, because {_why_without_negative(pipeline, family, guidance)}"


def _note_on_length(pipeline: DiffusionPipeline, name: str, text: str) -> Iterator[str]:
    encoding = family_of_model(pipeline).text
    count, most = encoding.count(pipeline, text), encoding.length(pipeline)
    if count > most:
        yield f"{name} has {count} tokens, but the base reads only the first {most}"


def _why_without_negative(pipeline: DiffusionPipeline, family: Family, guidance: float) -> str:
    if not family.text.has_negative:
        return f"{family.name} has no second pass that could use it"
    if not family.sampling.takes_guidance(pipeline):
        return "the base is distilled and has no second pass that could use it"
    return f"guidance_scale is {guidance:g}: only above 1 a second pass uses it"
