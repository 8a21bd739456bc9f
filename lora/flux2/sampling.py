"""Generate one image from an encoded prompt, and perhaps from an image and beside reference images. Shared by training,
for sample images, and by serving.

A pipeline's latents are packed, [1, N, C], and normalized as in lora/flux2/latents.py.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

from lora.base.family import ImageSource, ReferenceEncoding, Sampling, SamplingDefaults, SamplingSettings
from lora.base.forward import Forward, replaced_forward
from lora.base.latents import TOKEN_PIXELS
from lora.base.prompt import Prompt
from lora.base.sampling import noise_generator, step_callback
from lora.flux2.latents import encode_pixels, pack, unpack
from lora.flux2.velocity import with_references

MAX_REFERENCE_PIXELS = 1024 * 1024  # as in Flux2KleinPipeline
GRAY = 128  # of 0..255: from here on, a pixel of a mask is white, as in diffusers

# Called after each denoising step with its number, from 0, and the latents; returns those to go on with.
AfterStep = Callable[[int, Tensor], Tensor]


def build_pipeline(
    transformer: Flux2Transformer2DModel, base: Path, *, vae: AutoencoderKLFlux2 | None = None
) -> Flux2KleinPipeline:
    """A pipeline for encoded prompts, with the scheduler of a base; without a VAE, it can only generate latents."""
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(base, subfolder="scheduler"),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        is_distilled=bool(Flux2KleinPipeline.load_config(base).get("is_distilled")),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate_image(
    pipeline: Flux2KleinPipeline, prompt: Prompt, negative: Prompt | None, settings: SamplingSettings
) -> Image.Image:
    """Generate an RGB image; the same seed gives the same image.

    Unless the base is distilled, a guidance above 1 is classifier-free guidance (arXiv 2207.12598): each step predicts
    twice, and leads away from `negative`, which is needed then. Reference images are shown to both predictions.
    """
    return _run_pipeline(pipeline, prompt, negative, settings)


def generate_latents(
    pipeline: Flux2KleinPipeline, prompt: Prompt, negative: Prompt | None, settings: SamplingSettings
) -> Tensor:
    """Generate an image as `generate_image` does, without decoding it: latents [C, H, W] on the transformer's device,
    normalized."""
    generated: list[Tensor] = []

    def stop_after_last(step: int, latents: Tensor) -> Tensor:
        if step == pipeline.num_timesteps - 1:
            generated.append(latents)
            raise _StopError
        return latents

    with suppress(_StopError):  # the pipeline would now undo the normalization, for which it needs a VAE
        _run_pipeline(pipeline, prompt, negative, settings, after_step=stop_after_last)
    return _unpacked(generated[0], settings)[0]


@torch.no_grad()
def generate_from_image(
    pipeline: Flux2KleinPipeline,
    prompt: Prompt,
    negative: Prompt | None,
    settings: SamplingSettings,
    source: ImageSource,
) -> Image.Image:
    """Generate an RGB image from a source in the size of `settings`, with the noise that `generate_image` starts with.

    As for FLUX.1 in diffusers: the last steps run, `strength` of all and at least one, on the source's latents with as
    much noise as they start with. With a mask, latents without any white pixel are those of the source again after each
    step. `Flux2KleinInpaintPipeline` does the same, but also shows the source to the transformer as a reference image.
    That takes twice the tokens, lets the source shine through at strength 1, and ends at a megapixel.
    """
    height, width = settings.height // TOKEN_PIXELS, settings.width // TOKEN_PIXELS
    pixels = pipeline.image_processor.preprocess(source.image)
    original = encode_pixels(pipeline.vae, pixels).to(prompt.tokens)
    noise = randn_tensor(
        original.shape, generator=noise_generator(settings), device=original.device, dtype=original.dtype
    )
    sigmas = last_sigmas(settings.steps, strength=source.strength)
    scheduler = pipeline.scheduler
    mu = compute_empirical_mu(height * width, settings.steps)
    scheduler.set_timesteps(sigmas=sigmas, mu=mu, device=original.device)
    noisy = scheduler.scale_noise(original, scheduler.timesteps[:1], noise)
    keep = None if source.mask is None else _keep_outside(source.mask, pipeline, pack(original), pack(noise))
    return _run_pipeline(pipeline, prompt, negative, settings, after_step=keep, sigmas=sigmas, latents=noisy)


def last_sigmas(steps: int, *, strength: float) -> list[float]:
    """The sigmas, before the shift for the image size, of the steps that run with a strength above 0: as many of all
    `steps` as in the pipelines of diffusers, at least one."""
    first = int(max(steps - steps * strength, 0))
    return list(np.linspace(1.0, 1 / steps, steps)[first:])


def _keep_outside(mask: Image.Image, pipeline: Flux2KleinPipeline, original: Tensor, noise: Tensor) -> AfterStep:
    """What restores the packed latents of the `original` outside of a mask, with as much noise as is left."""
    white = torch.from_numpy(np.array(mask) >= GRAY).to(original)
    inside = pack(max_pool2d(white[None, None], TOKEN_PIXELS))

    def keep(step: int, latents: Tensor) -> Tensor:
        # The scheduler has counted the step: it adds noise for the next one, and none after the last.
        outside = pipeline.scheduler.scale_noise(original, pipeline.scheduler.timesteps[step : step + 1], noise)
        return (1 - inside) * outside + inside * latents

    return keep


def fit_reference(image: Image.Image) -> Image.Image:
    """A reference image as `Flux2KleinPipeline` resizes it: reduced to a megapixel if it has more, and cropped in the
    center to multiples of 16 pixels."""
    scale = min(math.sqrt(MAX_REFERENCE_PIXELS / (image.width * image.height)), 1.0)
    if scale < 1:
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.LANCZOS)
    left, top = (side % TOKEN_PIXELS // 2 for side in image.size)
    width, height = (side // TOKEN_PIXELS * TOKEN_PIXELS for side in image.size)
    return image.crop((left, top, left + width, top + height))


@torch.no_grad()
def encode_reference(pipeline: Flux2KleinPipeline, image: Image.Image) -> Tensor:
    """The normalized latents [1, C, H, W] of an RGB image at the size of `fit_reference`, fp32 on the CPU, as training
    encodes images. A pipeline that computes in bf16 would also normalize in bf16."""
    return encode_pixels(pipeline.vae, pipeline.image_processor.preprocess(fit_reference(image)))


class _StopError(Exception):
    """Ends a pipeline from within."""


def _run_pipeline(
    pipeline: Flux2KleinPipeline,
    prompt: Prompt,
    negative: Prompt | None,
    settings: SamplingSettings,
    *,
    after_step: AfterStep | None = None,
    **start: Any,  # noqa: ANN401 (`sigmas` and `latents` of the pipeline)
) -> Image.Image:
    report = step_callback(settings)

    def on_step_end(pipeline: Flux2KleinPipeline, step: int, time: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        report(pipeline, step, time, kwargs)
        return kwargs if after_step is None else {"latents": after_step(step, kwargs["latents"])}

    references = tuple(each.to(prompt.tokens) for each in settings.references)
    with _showing(pipeline.transformer, references):
        image: Image.Image = pipeline(
            prompt_embeds=prompt.tokens[None],
            negative_prompt_embeds=None if negative is None else negative.tokens[None],
            width=settings.width,
            height=settings.height,
            num_inference_steps=settings.steps,
            guidance_scale=1.0 if pipeline.config.is_distilled else settings.guidance,  # which it would warn of
            generator=noise_generator(settings),
            callback_on_step_end=on_step_end,
            **start,
        ).images[0]
    return image


@contextmanager
def _showing(transformer: Flux2Transformer2DModel, references: tuple[Tensor, ...]) -> Iterator[None]:
    """Inside the `with` block, a pipeline shows reference images to the transformer, as with its argument `image`. That
    takes no latents, which training has, and encodes the images anew for each call. The pipeline drops the output of
    their tokens."""

    def with_tokens(forward: Forward) -> Forward:
        def call(*, hidden_states: Tensor, img_ids: Tensor, **inputs: object) -> Any:  # noqa: ANN401 (its output)
            noisy = {"hidden_states": hidden_states, "img_ids": img_ids}
            return forward(**with_references(noisy, references), **inputs)

        return call

    with replaced_forward(transformer, with_tokens) if references else nullcontext():
        yield


def _unpacked(latents: Tensor, settings: SamplingSettings) -> Tensor:
    return unpack(latents, height=settings.height // TOKEN_PIXELS, width=settings.width // TOKEN_PIXELS)


def _takes_guidance(pipeline: Flux2KleinPipeline) -> bool:
    return not pipeline.config.is_distilled


def _needs_negative(pipeline: Flux2KleinPipeline, guidance: float) -> bool:
    return guidance > 1 and _takes_guidance(pipeline)


SAMPLING = Sampling(
    defaults=SamplingDefaults(steps=50, guidance=4.0),  # as Flux2KleinPipeline has them
    distilled=SamplingDefaults(steps=4, guidance=1.0),  # huggingface.co/black-forest-labs/FLUX.2-klein-4B
    takes_guidance=_takes_guidance,
    needs_negative=_needs_negative,
    build_pipeline=build_pipeline,
    generate_image=generate_image,
    generate_latents=generate_latents,
    generate_from_image=generate_from_image,
    references=ReferenceEncoding(fit=fit_reference, encode=encode_reference),
)
