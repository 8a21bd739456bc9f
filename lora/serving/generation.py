"""Generates the images of a request: text to image, image to image, inpainting, and editing. Knows no LoRA."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from lora.base.family import ImageSource, SamplingSettings
from lora.families.registry import family_of_model
from lora.images.size import Size
from lora.serving.progress import Progress
from lora.serving.prompts import EncodedPrompts, encode_prompts
from lora.serving.reference_images import ReferenceImage
from lora.serving.request import MATCH, Request, size_for_image
from lora.serving.sources import FittedSource, Source


@torch.inference_mode()
def generate(
    pipeline: DiffusionPipeline,
    request: Request,
    source: Source | None = None,
    *,
    references: Sequence[ReferenceImage] = (),
    prompts: EncodedPrompts | None = None,
    progress: Progress | None = None,
) -> Iterator[Image.Image]:
    """Yield the images of a request, one at a time. Each image has its own seed and can be reproduced alone.

    With a source, the images have its shape, and no more pixels than they would have without a source. With a mask,
    they have the source's own size, and its own pixels but for the masked part and a feathered edge. All images are
    generated beside the reference images, which the base must take. `prompts` are the encoded prompts of the request,
    if they are available; `progress` counts the steps. Raises FloatingPointError if an image has NaN or infinite
    pixels.
    """
    family = family_of_model(pipeline)
    prompts = prompts or encode_prompts(pipeline, request, partial(family.text.encode, pipeline))
    progress = progress or Progress(lambda _: None, images=request.num_outputs)
    size = generation_size(pipeline, request, source, references)
    encoded = _encoded(pipeline, references)
    fitted = source.fitted(size, latent_pixels=family.latents.pixels) if source else None
    for seed in request.seeds:
        settings = SamplingSettings(
            width=size.width,
            height=size.height,
            steps=request.num_inference_steps,
            guidance=request.guidance_scale,
            seed=seed,
            after_step=lambda steps: progress.step(of=steps),
            references=encoded,
        )
        with _finite_images(pipeline):
            if fitted is None:
                image = family.sampling.generate_image(pipeline, prompts.prompt, prompts.negative, settings)
            else:
                image = fitted.unchanged or _generate_from_image(pipeline, prompts, settings, fitted)
        yield image


def generation_size(
    pipeline: DiffusionPipeline, request: Request, source: Source | None, references: Sequence[ReferenceImage] = ()
) -> Size:
    """Return the size at which the images of a request are generated, in multiples of 16 pixels.

    It is that of the source, or of the first reference image if the request wants that, with no more pixels than the
    images would have without either.
    """
    native = pipeline.vae.config.sample_size
    if source:
        return size_for_image(source.decoded.original, megapixels=request.megapixels, native=native)
    if references and request.aspect_ratio == MATCH:
        return size_for_image(Size(*references[0].image.size), megapixels=request.megapixels, native=native)
    return Size(*request.size(native=native))


def _encoded(pipeline: DiffusionPipeline, references: Sequence[ReferenceImage]) -> tuple[Tensor, ...]:
    """The latents of reference images, once for all images of a request."""
    encoding = family_of_model(pipeline).sampling.references
    assert encoding or not references
    return tuple(encoding.encode(pipeline, each.image) for each in references) if encoding else ()


def _generate_from_image(
    pipeline: DiffusionPipeline, prompts: EncodedPrompts, settings: SamplingSettings, source: FittedSource
) -> Image.Image:
    inpainting = source.inpainting
    mask = inpainting.latent_mask() if inpainting else None
    image_source = ImageSource(image=source.image, mask=mask, strength=source.strength)
    sampling = family_of_model(pipeline).sampling
    image = sampling.generate_from_image(pipeline, prompts.prompt, prompts.negative, settings, image_source)
    return inpainting.compose(image) if inpainting else image


@contextmanager
def _finite_images(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Inside the `with` block, decoding an image with NaN or infinite pixels raises FloatingPointError.

    NaN or infinity in any latent, at any step, makes all decoded pixels NaN, as the decoder normalizes over the image;
    they would be saved as black. So one check for each image finds them, where the GPU is waited for in any case.
    """

    def refuse(_decoder: nn.Module, _inputs: object, pixels: Tensor) -> None:
        if not pixels.isfinite().all():
            raise FloatingPointError("the generated image has NaN or infinite pixels")

    hook = pipeline.vae.decoder.register_forward_hook(refuse)  # all pipelines decode with it
    try:
        yield
    finally:
        hook.remove()
