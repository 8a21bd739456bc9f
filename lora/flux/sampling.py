"""Generate one image from an encoded prompt. Shared by training, for sample images, and by serving."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from PIL import Image
from torch import Tensor

from lora.flux.forward import Forward, replaced_forward
from lora.flux.latents import PATCH, TOKEN_PIXELS, unpack
from lora.flux.modulation import Conditions, PrecomputedModulation
from lora.flux.prompt import Prompt


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
    pipeline: FluxPipeline,
    prompt: Prompt,
    *,
    width: int,
    height: int,
    steps: int,
    guidance: float,
    seed: int,
    after_step: Callable[[], None] = lambda: None,
) -> Image.Image:
    """Generate an RGB image of `width` x `height` pixels, multiples of 16; the same seed gives the same image.

    `prompt` is a single one, without a batch dimension. `after_step` is called after each of the `steps` denoising
    steps, and may raise.
    """
    sampling = _Sampling(steps, guidance, seed, after_step)
    return _run_pipeline(pipeline, prompt, sampling, width=width, height=height, output_type="pil")


def generate_latents(
    pipeline: FluxPipeline,
    prompt: Prompt,
    *,
    side: int,
    steps: int,
    guidance: float,
    seed: int,
    after_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Generate a square image of `side` pixels, a multiple of 16, without decoding it: latents [C, H, W] on the
    transformer's device, H = W = side / 8, scaled as the transformer takes them. `prompt` and `after_step` are as in
    `generate_image`."""
    sampling = _Sampling(steps, guidance, seed, after_step)
    tokens = _run_pipeline(pipeline, prompt, sampling, width=side, height=side, output_type="latent")
    latent_side = side // TOKEN_PIXELS * PATCH
    return unpack(tokens[None], height=latent_side, width=latent_side)[0]


@dataclass(frozen=True, slots=True)
class _Sampling:
    """The settings of the denoising loop."""

    steps: int
    guidance: float
    seed: int
    after_step: Callable[[], None]


def _run_pipeline(
    pipeline: FluxPipeline, prompt: Prompt, sampling: _Sampling, *, width: int, height: int, output_type: str
) -> Any:  # noqa: ANN401 (an image, or packed latents [N, 4C])
    def on_step_end(
        _pipeline: FluxPipeline, _step: int, _timestep: int, kwargs: dict[str, object]
    ) -> dict[str, object]:
        sampling.after_step()
        return kwargs

    with _precomputed_modulation(pipeline, prompt, guidance=sampling.guidance):
        return pipeline(
            prompt_embeds=prompt.tokens[None],
            pooled_prompt_embeds=prompt.pooled[None],
            width=width,
            height=height,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            generator=torch.Generator().manual_seed(sampling.seed),  # on the CPU: the same noise on every machine
            callback_on_step_end=on_step_end,
            output_type=output_type,
        ).images[0]


@contextmanager
def _precomputed_modulation(pipeline: FluxPipeline, prompt: Prompt, *, guidance: float) -> Iterator[None]:
    """Inside the `with` block, the pipeline may be called once, and modulation layers on the host, if there are any,
    are precomputed for all denoising steps: otherwise their weights would move to the device in each step."""
    transformer, scheduler = pipeline.transformer, pipeline.scheduler
    modulation, numbers = PrecomputedModulation(transformer, batch_size=1), itertools.count()
    if not modulation.has_layers:
        yield
        return

    def conditions_of(step: int) -> Conditions | None:
        sigmas = scheduler.timesteps[step : step + 1].to(prompt.pooled.dtype) / 1000  # as FluxPipeline computes them
        return Conditions(sigmas, prompt.pooled[None]) if len(sigmas) else None

    def with_modulation(forward: Forward) -> Forward:
        def call(**inputs: object) -> Any:  # noqa: ANN401 (the transformer's output)
            with modulation.precomputed(next(numbers), conditions_of, guidance=guidance):
                return forward(**inputs)

        return call

    with replaced_forward(transformer, with_modulation):
        yield
