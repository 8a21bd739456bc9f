"""A request becomes images: from nothing, from another image, or in a part of one. Knows no LoRA and no file."""

from collections.abc import Iterator
from functools import partial

import torch
from diffusers import FluxImg2ImgPipeline, FluxInpaintPipeline, FluxPipeline
from PIL import Image

from lora.flux.prompt import Prompt, encode_prompt
from lora.flux.sampling import generate_image
from lora.images.size import Size
from lora.serving.progress import Progress, Say
from lora.serving.request import Request, size_for_image
from lora.serving.sources import Fitted, Source


@torch.inference_mode()
def draw(
    pipeline: FluxPipeline,
    request: Request,
    source: Source | None = None,
    *,
    prompt: Prompt | None = None,
    say: Say = lambda _: None,
) -> Iterator[Image.Image]:
    """The images of a request, one by one: each has a seed of its own, so each can be drawn again alone.

    With a source, its shape decides theirs, at no more pixels than the request would have without. `prompt` is that of
    the request, if it is encoded already; `say` is told how far it is.
    """
    prompt = prompt or encode_prompt(pipeline, request.prompt)
    progress = Progress(say, images=request.num_outputs)
    size = output_size(pipeline, request, source)
    fitted = source.fitted(size) if source else None
    for seed in request.seeds:
        if fitted is None:
            yield _draw(pipeline, prompt, request, size, seed, progress)
        else:
            yield _redraw(pipeline, prompt, request, fitted, seed, progress)


def output_size(pipeline: FluxPipeline, request: Request, source: Source | None) -> Size:
    """That of the images of a request."""
    native = pipeline.vae.config.sample_size
    if source is None:
        return Size(*request.size(native=native))
    return size_for_image(source.picture.original, megapixels=request.megapixels, native=native)


def _draw(
    pipeline: FluxPipeline, prompt: Prompt, request: Request, size: Size, seed: int, progress: Progress
) -> Image.Image:
    return generate_image(
        pipeline,
        prompt,
        width=size.width,
        height=size.height,
        steps=request.num_inference_steps,
        guidance=request.guidance_scale,
        seed=seed,
        after_step=partial(progress.step, of=request.num_inference_steps),
    )


def _redraw(
    pipeline: FluxPipeline, prompt: Prompt, request: Request, source: Fitted, seed: int, progress: Progress
) -> Image.Image:
    """The steps that are left of `num_inference_steps` at this strength, at least one; none at strength 0."""
    if source.strength == 0 or (source.mask is not None and source.mask.getextrema() == (0, 0)):
        return source.image
    kind = FluxImg2ImgPipeline if source.mask is None else FluxInpaintPipeline
    redrawing = kind(**pipeline.components)  # from_pipe would turn the weights, which they share, into fp32
    redrawing.set_progress_bar_config(disable=True)

    def on_step_end(_pipe: FluxPipeline, _step: int, _time: int, kwargs: dict[str, object]) -> dict[str, object]:
        progress.step(of=redrawing.num_timesteps)
        return kwargs

    masked = {} if source.mask is None else {"mask_image": source.mask}
    return redrawing(
        image=source.image,
        **masked,
        prompt_embeds=prompt.tokens[None],
        pooled_prompt_embeds=prompt.pooled[None],
        width=source.image.width,
        height=source.image.height,
        strength=source.strength,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=on_step_end,
    ).images[0]
