"""The memory requirements of a training, from its base, images and recipe; and the free memory. Loads no weights."""

from pathlib import Path

import torch

from lora.base.device import device
from lora.base.family import VAE
from lora.base.latents import TOKEN_PIXELS
from lora.dataset.reading import CaptionedImage, Dataset
from lora.dataset.references import crops_of_reference
from lora.engine.matmuls import fastest_matmuls
from lora.engine.precision import UNTIMED
from lora.families.frozen_transformer import WeightPlacement
from lora.families.loading import transformer_config
from lora.families.registry import family_of
from lora.host_memory import free_host_bytes
from lora.training.memory.configurations import Plan
from lora.training.memory.encoders import EncoderPlacement
from lora.training.memory.prediction import MemoryRequirements
from lora.training.recipe.optimizers import bytes_per_parameter
from lora.training.recipe.recipe import Recipe

HOST = torch.device("cpu")


def memory_requirements(
    base: Path,
    dataset: Dataset,
    recipe: Recipe,
    layers: tuple[str, ...],
    *,
    neutral_side: int,
    sample_side: int,
    is_validated: bool,
    processes: int,
    may_be_int8: bool,
) -> MemoryRequirements:
    """The numbers from which the plan is made. `neutral_side` is the side in pixels of the images for preservation, and
    `sample_side` that of samples, 0 without samples. The matmuls of int8 layers are timed only if the base may be int8.
    """
    config, family = transformer_config(base), family_of(base)
    with torch.device("meta"):
        transformer = family.components.transformer.from_config(config)
    sides = [sum(transformer.get_submodule(name).weight.shape) for name in layers]
    pixels = max(size.pixels for image in dataset.images for size in image.inspection.sizes)
    trained_pixels = max(pixels, neutral_side**2) if recipe.preservation else pixels
    image_tokens, text_tokens = trained_pixels // TOKEN_PIXELS**2, family.text.length_of(base)
    reference_tokens = max(map(_reference_tokens, dataset.images))
    tokens = image_tokens + reference_tokens + text_tokens
    return MemoryRequirements(
        shape=family.transformer.dimensions(config),
        image_tokens=image_tokens,
        text_tokens=text_tokens,
        batch_size=recipe.batch_size,
        lora_parameters=recipe.lora_rank * sum(sides),
        optimizer_bytes=bytes_per_parameter(recipe.optimizer),
        encoder_bytes=(sum(_bytes_of(base / name) for name in family.components.text_encoders),),  # all at a time
        vae_bytes=_bytes_of(base / VAE),
        is_preserving=bool(recipe.preservation),
        is_validated=is_validated,
        sample_tokens=(sample_side // TOKEN_PIXELS) ** 2,
        processes=processes,
        reference_tokens=reference_tokens,
        matmuls=fastest_matmuls(device(), rows=recipe.batch_size * tokens) if may_be_int8 else UNTIMED,
    )


def _reference_tokens(image: CaptionedImage) -> int:
    """The tokens of all references of an image together, each at its largest size."""
    crops = (crops_of_reference(reference, image.inspection) for reference in image.references)
    return sum(max(crop.size.pixels for crop in of_one) // TOKEN_PIXELS**2 for of_one in crops)


def free_bytes() -> int:
    """Free memory in bytes: of the GPU that has least, or of this machine if it has no GPU."""
    if device().type == "cuda":
        return min(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
    return free_host_bytes()


def weight_placement(plan: Plan) -> WeightPlacement:
    """The precision and placement of the frozen weights in a plan, on the device that trains."""
    return WeightPlacement(
        plan.configuration.precision,
        plan.configuration.modulation_on_host,
        device(),
        plan.configuration.streamed_blocks,
        plan.configuration.matmul,
    )


def encoder_offload_device(placement: EncoderPlacement) -> torch.device:
    """The device on which the encoders are stored while they do not run."""
    return device() if placement == "together" else HOST


def encoder_execution_device(placement: EncoderPlacement) -> torch.device:
    """The device on which the encoders run."""
    return HOST if placement == "host" else device()


def _bytes_of(folder: Path) -> int:
    """The bytes of a component's weights, which are stored in the precision in which they are loaded."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
