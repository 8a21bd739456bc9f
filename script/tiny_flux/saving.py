"""Writes the trained networks as a pipeline in diffusers layout."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    FluxPipeline,
)

from lora.training.recipe.neutral import PROMPTS_FILE
from script.tiny_flux.captions import neutral_prompts
from script.tiny_flux.klein.networks import TinyFlux2
from script.tiny_flux.klein.tokenizer import build_tokenizer
from script.tiny_flux.networks import TinyFlux

STORED_PRECISION = torch.float16  # half the size of fp32, and more precise than bf16 for weights of this magnitude
READABLE = 0o644  # safetensors writes files that only their owner can read


def flux_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return the scheduler of FLUX.1-dev with its published settings, which FLUX.2 [klein] has, too."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def flux1_pipeline(vae: AutoencoderKL, model: TinyFlux) -> FluxPipeline:
    """Return the pipeline of the trained networks: the small text encoders in fp32, the rest in fp16."""
    return FluxPipeline(
        scheduler=flux_scheduler(),
        vae=vae.to("cpu", STORED_PRECISION),
        text_encoder=model.clip.to("cpu"),
        tokenizer=model.tokenizers.clip,
        text_encoder_2=model.t5.to("cpu"),
        tokenizer_2=model.tokenizers.t5,
        transformer=model.transformer.to("cpu", STORED_PRECISION),
    )


def klein_pipeline(vae: AutoencoderKLFlux2, model: TinyFlux2) -> Flux2KleinPipeline:
    """Return the pipeline of the trained networks, in fp16.

    Its tokenizer is a new one: a file of the used one would contain the padding of the last batch.
    """
    return Flux2KleinPipeline(
        scheduler=flux_scheduler(),
        vae=vae.to("cpu", STORED_PRECISION),
        text_encoder=model.text_encoder().to("cpu", STORED_PRECISION),
        tokenizer=build_tokenizer(),
        transformer=model.transformer.to("cpu", STORED_PRECISION),
        is_distilled=False,
    )


def save_base(pipeline: DiffusionPipeline, *, into: Path) -> None:
    """Write a pipeline that stock diffusers loads, and the prompts for `preservation`."""
    pipeline.save_pretrained(into)
    (into / PROMPTS_FILE).write_text(json.dumps(neutral_prompts(), indent=1) + "\n")
    for path in into.rglob("*"):
        if path.is_file():
            path.chmod(READABLE)
