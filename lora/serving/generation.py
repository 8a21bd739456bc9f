"""Generates the images of a request: text to image, image to image, and inpainting. Knows no LoRA and no file."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from diffusers import FluxImg2ImgPipeline, FluxInpaintPipeline, FluxPipeline
from PIL import Image
from torch import Tensor, nn

from lora.flux.prompt import Prompt, encode_prompt
from lora.flux.sampling import generate_image
from lora.images.size import Size
from lora.serving.progress import Progress
from lora.serving.request import Request, size_for_image
from lora.serving.sources import FittedSource, Source


@torch.inference_mode()
def generate(
    pipeline: FluxPipeline,
    request: Request,
    source: Source | None = None,
    *,
    prompt: Prompt | None = None,
    progress: Progress | None = None,
) -> Iterator[Image.Image]:
    """Yield the images of a request, one at a time. Each image has its own seed and can be reproduced alone.

    With a source, the images have its shape, and no more pixels than they would have without a source. With a mask,
    they have the source's own size, and its own pixels but for the masked part and a feathered edge. `prompt` is the
    encoded prompt of the request, if it is available; `progress` counts the steps. Raises FloatingPointError if
    an image has NaN or infinite pixels.
    """
    prompt = prompt or encode_prompt(pipeline, request.prompt)
    progress = progress or Progress(lambda _: None, images=request.num_outputs)
    size = generation_size(pipeline, request, source)
    fitted = source.fitted(size) if source else None
    for seed in request.seeds:
        with _finite_images(pipeline):
            if fitted is None:
                image = _generate_from_text(pipeline, prompt, request, size, seed, progress)
            else:
                image = fitted.unchanged or _generate_from_image(pipeline, prompt, request, fitted, seed, progress)
        yield image


def generation_size(pipeline: FluxPipeline, request: Request, source: Source | None) -> Size:
    """Return the size at which the images of a request are generated, in multiples of 16 pixels."""
    native = pipeline.vae.config.sample_size
    if source is None:
        return Size(*request.size(native=native))
    return size_for_image(source.decoded.original, megapixels=request.megapixels, native=native)


def _generate_from_text(
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


def _generate_from_image(
    pipeline: FluxPipeline, prompt: Prompt, request: Request, source: FittedSource, seed: int, progress: Progress
) -> Image.Image:
    """Run `strength` times `num_inference_steps` steps, at least one."""
    inpainting = source.inpainting
    kind = FluxInpaintPipeline if inpainting else FluxImg2ImgPipeline
    image_pipeline = kind(**pipeline.components)  # from_pipe would cast the shared weights to fp32
    image_pipeline.set_progress_bar_config(disable=True)

    def on_step_end(_pipe: FluxPipeline, _step: int, _time: int, kwargs: dict[str, object]) -> dict[str, object]:
        progress.step(of=image_pipeline.num_timesteps)
        return kwargs

    masked = {"mask_image": inpainting.latent_mask()} if inpainting else {}
    image: Image.Image = image_pipeline(
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
    return inpainting.compose(image) if inpainting else image


@contextmanager
def _finite_images(pipeline: FluxPipeline) -> Iterator[None]:
    """Inside the `with` block, decoding an image with NaN or infinite pixels raises FloatingPointError.

    NaN or infinity in any latent, at any step, makes all decoded pixels NaN, as the decoder normalizes over the image;
    they would be saved as black. So one check for each image finds them, where the GPU is waited for in any case.
    """

    def refuse(_decoder: nn.Module, _inputs: object, pixels: Tensor) -> None:
        if not pixels.isfinite().all():
            raise FloatingPointError("the generated image has NaN or infinite pixels")

    hook = pipeline.vae.decoder.register_forward_hook(refuse)  # all three pipelines decode with it
    try:
        yield
    finally:
        hook.remove()
