"""What a training asks of memory, from its base, its images and its recipe; and what there is. Loads no weights."""

from pathlib import Path

import psutil
import torch
from diffusers import FluxTransformer2DModel

from lora.dataset.reading import Dataset
from lora.flux.dimensions import Dimensions
from lora.flux.frozen_transformer import WeightPlacement
from lora.flux.latents import TOKEN_PIXELS
from lora.flux.loading import device, transformer_config
from lora.flux.prompt import text_tokens_of
from lora.training.memory.configurations import EncoderPlacement, MemoryRequirements, Plan
from lora.training.recipe.optimizers import bytes_per_parameter
from lora.training.recipe.recipe import Recipe

HOST = torch.device("cpu")


def memory_requirements(
    base: Path, dataset: Dataset, recipe: Recipe, layers: tuple[str, ...], *, neutral_side: int
) -> MemoryRequirements:
    """The numbers that the plan is made from; `neutral_side` is that of images for preservation, in pixels."""
    config = transformer_config(base)
    with torch.device("meta"):
        transformer = FluxTransformer2DModel.from_config(config)
    sides = [sum(transformer.get_submodule(name).weight.shape) for name in layers]
    pixels = max(size.pixels for image in dataset.images for size in image.look.sizes)
    trained_pixels = max(pixels, neutral_side**2) if recipe.preservation else pixels
    return MemoryRequirements(
        shape=Dimensions.of(config),
        image_tokens=trained_pixels // TOKEN_PIXELS**2,
        text_tokens=text_tokens_of(base),
        batch_size=recipe.batch_size,
        lora_parameters=recipe.lora_rank * sum(sides),
        optimizer_bytes=bytes_per_parameter(recipe.optimizer),
        encoder_bytes=(_bytes_of(base / "text_encoder") + _bytes_of(base / "text_encoder_2"),),  # they work together
        vae_bytes=_bytes_of(base / "vae"),
        is_preserving=bool(recipe.preservation),
    )


def free_bytes() -> int:
    """Of the GPU that has least, or of this machine if there is none."""
    if device().type == "cuda":
        return min(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
    return psutil.virtual_memory().available


def held(plan: Plan) -> WeightPlacement:
    """The base, held as planned on the device that trains."""
    return WeightPlacement(plan.rung.precision, plan.rung.modulation_on_host, device(), plan.rung.streamed_blocks)


def encoder_offload_device(place: EncoderPlacement) -> torch.device:
    """Where the encoders are when they do not work."""
    return device() if place == "together" else HOST


def encoder_execution_device(place: EncoderPlacement) -> torch.device:
    """Where they work."""
    return HOST if place == "host" else device()


def _bytes_of(folder: Path) -> int:
    """Published in the precision that they are loaded in."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
