"""Generate one image from an encoded prompt. Shared by training, for sample images, and by serving."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from PIL import Image
from torch import Tensor

from lora.base.family import ImageSource, Sampling, SamplingDefaults, SamplingSettings
from lora.base.forward import Forward, replaced_forward
from lora.base.modulation import Conditions, PrecomputedModulation
from lora.base.prompt import Prompt
from lora.base.sampling import noise_generator, step_callback
from lora.flux.latents import LATENTS, unpack
from lora.flux.modulation import modulation_input


def build_pipeline(
    transformer: FluxTransformer2DModel, base: Path, *, vae: AutoencoderKL | None = None
) -> FluxPipeline:
    """A pipeline for encoded prompts, with the scheduler of a base; without a VAE, it can only generate latents."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(base, subfolder="scheduler")
    no_encoders = {"text_encoder": None, "text_encoder_2": None, "tokenizer": None, "tokenizer_2": None}
    pipeline = FluxPipeline(scheduler=scheduler, vae=vae, transformer=transformer, **no_encoders)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate_image(
    pipeline: FluxPipeline, prompt: Prompt, _negative: Prompt | None, settings: SamplingSettings
) -> Image.Image:
    """Generate an RGB image; the same seed gives the same image."""
    return _run_pipeline(pipeline, prompt, settings, output_type="pil")


def generate_latents(
    pipeline: FluxPipeline, prompt: Prompt, _negative: Prompt | None, settings: SamplingSettings
) -> Tensor:
    """Generate an image without decoding it: latents [C, H, W] on the transformer's device, scaled as the transformer
    takes them."""
    tokens = _run_pipeline(pipeline, prompt, settings, output_type="latent")
    height, width = (side // LATENTS.pixels for side in (settings.height, settings.width))
    return unpack(tokens[None], height=height, width=width)[0]


def generate_from_image(
    pipeline: FluxPipeline, prompt: Prompt, _negative: Prompt | None, settings: SamplingSettings, source: ImageSource
) -> Image.Image:
    """Image to image, or inpainting with a mask: runs `strength` times `steps` steps, at least one."""
    kind = FluxInpaintPipeline if source.mask else FluxImg2ImgPipeline
    image_pipeline = kind(**pipeline.components)  # from_pipe would cast the shared weights to fp32
    image_pipeline.set_progress_bar_config(disable=True)
    image: Image.Image = image_pipeline(
        image=source.image,
        **({"mask_image": source.mask} if source.mask else {}),
        strength=source.strength,
        **_arguments(prompt, settings),
    ).images[0]
    return image


def _run_pipeline(pipeline: FluxPipeline, prompt: Prompt, settings: SamplingSettings, *, output_type: str) -> Any:  # noqa: ANN401 (an image, or packed latents [N, 4C])
    with _precomputed_modulation(pipeline, prompt, guidance=settings.guidance):
        return pipeline(**_arguments(prompt, settings), output_type=output_type).images[0]


def _arguments(prompt: Prompt, settings: SamplingSettings) -> dict[str, Any]:
    assert prompt.pooled is not None
    return {
        "prompt_embeds": prompt.tokens[None],
        "pooled_prompt_embeds": prompt.pooled[None],
        "width": settings.width,
        "height": settings.height,
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "generator": noise_generator(settings),
        "callback_on_step_end": step_callback(settings),
    }


@contextmanager
def _precomputed_modulation(pipeline: FluxPipeline, prompt: Prompt, *, guidance: float) -> Iterator[None]:
    """Inside the `with` block, the pipeline may be called once, and modulation layers on the host, if there are any,
    are precomputed for all denoising steps: otherwise their weights would move to the device in each step."""
    transformer, scheduler, pooled = pipeline.transformer, pipeline.scheduler, prompt.pooled
    modulation, numbers = PrecomputedModulation(transformer, modulation_input, batch_size=1), itertools.count()
    if not modulation.has_layers or pooled is None:
        yield
        return

    def conditions_of(step: int) -> Conditions | None:
        sigmas = scheduler.timesteps[step : step + 1].to(pooled.dtype) / 1000  # as FluxPipeline computes them
        return Conditions(sigmas, pooled[None]) if len(sigmas) else None

    def with_modulation(forward: Forward) -> Forward:
        def call(**inputs: object) -> Any:  # noqa: ANN401 (the transformer's output)
            with modulation.precomputed(next(numbers), conditions_of, guidance=guidance):
                return forward(**inputs)

        return call

    with replaced_forward(transformer, with_modulation):
        yield


SAMPLING = Sampling(
    defaults=SamplingDefaults(steps=28, guidance=3.5),
    distilled=SamplingDefaults(steps=4, guidance=3.5),  # schnell
    takes_guidance=lambda pipeline: bool(pipeline.transformer.config.guidance_embeds),
    needs_negative=lambda _pipeline, _guidance: False,
    build_pipeline=build_pipeline,
    generate_image=generate_image,
    generate_latents=generate_latents,
    generate_from_image=generate_from_image,
    references=None,
)
