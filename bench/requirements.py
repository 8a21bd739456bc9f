"""What our memory plan predicts for a training with random weights, to compare it with what is measured."""

from collections.abc import Iterable

from bench.random_flux import TransformerSizes
from bench.step_arms import Arm, script_layers
from bench.step_loops import RANK
from lora.base.latents import TOKEN_PIXELS
from lora.engine.precision import MatmulPrecision, TimedMatmul
from lora.training.memory.prediction import MemoryPrediction, MemoryRequirements
from lora.training.memory.weights import MemoryConfiguration
from lora.training.recipe.optimizers import bytes_per_parameter


def memory_requirements(
    sizes: TransformerSizes,
    layers: Iterable[str],
    *,
    side: int,
    batch_size: int,
    optimizer: str,
    matmuls: tuple[TimedMatmul, ...],
) -> MemoryRequirements:
    """The numbers from which plans are made, for a LoRA on these layers; texts and images are already encoded."""
    shapes = sizes.layers
    return MemoryRequirements(
        shape=sizes.dimensions,
        image_tokens=(side // TOKEN_PIXELS) ** 2,
        text_tokens=sizes.text_tokens,
        batch_size=batch_size,
        lora_parameters=RANK * sum(shapes[name].inputs + shapes[name].outputs for name in layers),
        optimizer_bytes=bytes_per_parameter(optimizer),
        encoder_bytes=(),
        vae_bytes=0,
        is_preserving=False,
        is_validated=False,
        sample_tokens=0,
        processes=1,
        matmuls=matmuls,
    )


def predicted_bytes(arm: Arm, sizes: TransformerSizes, *, side: int, batch_size: int) -> float | None:
    """The peak memory of the GPU that is predicted for one of our arms; None for the script's."""
    if not arm.is_ours:
        return None
    layers = script_layers(sizes)
    matmuls = (TimedMatmul(arm.matmul, None),)
    requirements = memory_requirements(
        sizes, layers, side=side, batch_size=batch_size, optimizer="adamw", matmuls=matmuls
    )
    matmul: MatmulPrecision = arm.matmul if arm.precision == "int8" else "bf16"
    streamed = arm.placement(sizes).streamed_blocks
    configuration = MemoryConfiguration(arm.precision, arm.recomputed, arm.modulation_on_host, streamed, matmul=matmul)
    return MemoryPrediction(requirements, on_gpu=True, engine="fast").running_bytes(configuration)
