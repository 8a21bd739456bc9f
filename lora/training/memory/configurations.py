"""Plan how a training fits into memory: memory configurations in order of preference, with fallbacks that need less.

Computes with numbers only; knows no model, no device and no library. Counted, and checked against allocations on a CPU:
weights, the LoRA with its optimizer, and the activations that autograd keeps. Estimated, and not measured on CUDA:
TRANSIENT_UNITS, UNITS_IN_8_BITS, WORKSPACE, VAE_BYTES_PER_PIXEL and the units of autocast, which were counted with
tensors without data.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import Literal

from lora.engine.options import PRECOMPUTED_BYTES, Engine, Recomputed
from lora.engine.precision import EightBitProduct, Precision, TimedProduct
from lora.flux.dimensions import Dimensions
from lora.training.memory.activations import most_units, recompute_options
from lora.training.memory.weights import BF16, FP32, MemoryConfiguration, weight_bytes

EncoderPlacement = Literal["together", "in turn", "host"]
ENCODER_PLACEMENTS: tuple[EncoderPlacement, ...] = ("together", "in turn", "host")  # from the fastest to the smallest

GB = 1e9
LORA_BYTES = 3 * FP32  # per parameter, without the optimizer's state: its value, its gradient, its average (EMA)
TRANSIENT_UNITS = 12  # gradients inside the widest part of a block during the backward pass
# The result of an int8 matmul, four times as wide as a block, in int32 and fp32 at once before it is rounded to bf16.
UNITS_IN_8_BITS: dict[EightBitProduct, int] = {"int8": 20, "bf16": 0}
NOT_TIMED = (TimedProduct("bf16", None),)
WORKSPACE = 500_000_000  # of libraries, and fragmentation of the allocator
PIXELS_PER_TOKEN = 16 * 16
VAE_BYTES_PER_PIXEL = 6 * 128 * BF16  # six feature maps of its first level at once


@dataclass(frozen=True, slots=True)
class MemoryRequirements:
    """The numbers that determine how much memory a training needs."""

    shape: Dimensions
    image_tokens: int  # of the largest training size
    text_tokens: int
    batch_size: int
    lora_parameters: int
    optimizer_bytes: float  # of optimizer state per LoRA parameter
    encoder_bytes: tuple[int, ...]  # of each text encoder
    vae_bytes: int
    is_preserving: bool  # with preservation, a second batch follows each batch of training
    products: tuple[TimedProduct, ...] = NOT_TIMED  # of 8-bit layers, from the fastest on


@dataclass(frozen=True, slots=True)
class Plan:
    """A memory configuration, the placement of the encoders, and the predicted peak memory."""

    configuration: MemoryConfiguration
    blocks: int  # of the transformer
    encoders: EncoderPlacement
    engine: Engine
    peak_bytes: float
    free_bytes: float
    products: tuple[TimedProduct, ...] = NOT_TIMED  # of 8-bit layers, from the fastest, which is used

    @property
    def fits(self) -> bool:
        """Whether the predicted peak fits into the free memory."""
        return self.peak_bytes <= self.free_bytes

    def settings(self) -> dict[str, object]:
        """The settings that the plan decides, by name."""
        return {
            "precision": self.configuration.precision,
            "product": self.configuration.product,
            "gradient_checkpointing": self.configuration.recomputed != "nothing" or self.configuration.whole_blocks > 0,
            "recomputed": self.configuration.recomputed,
            "whole_blocks": self.configuration.whole_blocks,
            "modulation_on_host": self.configuration.modulation_on_host,
            "streamed_blocks": self.configuration.streamed_blocks,
            "engine": self.engine,
        }

    def line(self) -> str:
        """The plan as one line for the log; GB are 10^9 bytes."""
        activations = {
            "nothing": "activations kept",
            "pointwise": "pointwise activations recomputed",
            "gelu": "pointwise activations and GELU inputs recomputed",
            "blocks": "whole blocks recomputed",
        }[self.configuration.recomputed]
        whole = f", {self.configuration.whole_blocks} of {self.blocks} blocks recomputed as a whole"
        modulation = ", modulation layers in host memory" if self.configuration.modulation_on_host else ""
        streamed = f", {self.configuration.streamed_blocks} of {self.blocks} blocks streamed from host memory"
        placements = {"together": "loaded together", "in turn": "loaded one at a time", "host": "in host memory"}
        peak = f"predicted peak {self.peak_bytes / GB:.1f} GB of {self.free_bytes / GB:.1f} GB free"
        warning = "" if self.fits else ", which may not fit"
        base = (
            f"base in {self.configuration.precision}{self._products()}, {activations}"
            f"{whole if self.configuration.whole_blocks else ''}{modulation}"
            f"{streamed if self.configuration.streamed_blocks else ''}"
        )
        return f"plan: {base}, encoders {placements[self.encoders]}; {peak}{warning}"

    def _products(self) -> str:
        """How 8-bit layers are multiplied, and the times that decided it, if they were measured."""
        if self.configuration.precision != "int8" or self.products[0].milliseconds is None:
            return ""
        fastest, *others = map(str, self.products)
        return f" with products in {fastest} a layer" + (f" ({', '.join(others)})" if others else "")


def plans(
    requirements: MemoryRequirements,
    *,
    free_bytes: float,
    on_gpu: bool,
    precision: Precision | Literal["auto"],
    checkpointing: bool | None,
    engine: Engine,
) -> tuple[Plan, ...]:
    """The best plan that fits, and its fallbacks, each of which needs less, in case memory runs out nevertheless.

    All plans keep to `precision` and `checkpointing` if the user chose them; "auto" and None leave the choice open. If
    no plan fits, the result is the smallest plan alone.
    """
    budget = _Budget(requirements, free_bytes, on_gpu, engine)
    configurations = (
        _gpu_configurations(budget, precision, checkpointing)
        if on_gpu
        else _cpu_configurations(precision, checkpointing)
    )
    candidates = [_plan(budget, configuration) for configuration in configurations]
    fitting = (index for index, plan in enumerate(candidates) if plan.fits)
    return _descending(candidates[next(fitting, -1) :])


def _descending(candidates: list[Plan]) -> tuple[Plan, ...]:
    """Drop plans that need more than one before them. Plans whose peak is that of the encoders all need the same."""
    smallest = accumulate((plan.peak_bytes for plan in candidates[:-1]), min, initial=math.inf)
    return tuple(plan for plan, least in zip(candidates, smallest, strict=True) if plan.peak_bytes <= least)


def training_bytes(
    requirements: MemoryRequirements, configuration: MemoryConfiguration, *, on_gpu: bool, engine: Engine
) -> float:
    """The predicted peak memory of the device in a training, after texts and images are encoded."""
    return _training_bytes(_Budget(requirements, math.inf, on_gpu, engine), configuration)


def lora_bytes(parameters: int, *, optimizer_bytes: float) -> float:
    """Bytes of a LoRA in fp32 with its gradients, its average and its optimizer state."""
    return parameters * (LORA_BYTES + optimizer_bytes)


def activation_bytes(
    requirements: MemoryRequirements,
    *,
    recomputed: Recomputed,
    whole_blocks: int = 0,
    value_bytes: int,
    is_autocast: bool,
) -> float:
    """Peak bytes of the activations that autograd keeps, with a LoRA on each linear layer of the blocks; a value has
    `value_bytes` bytes, and `whole_blocks` blocks are recomputed as a whole."""
    units = most_units(requirements.shape, recomputed, whole_blocks=whole_blocks, is_autocast=is_autocast)
    return units * _unit_bytes(requirements, value_bytes)


@dataclass(frozen=True, slots=True)
class _Budget:
    """The requirements, and the memory that they have to fit into."""

    requirements: MemoryRequirements
    free_bytes: float
    on_gpu: bool
    engine: Engine


def _gpu_configurations(
    budget: _Budget, precision: Precision | Literal["auto"], checkpointing: bool | None
) -> Iterator[MemoryConfiguration]:
    """From the best configuration to the smallest.

    Speed is given up before precision, with one exception: int8 costs little precision, and streaming a bf16 base costs
    much time, so the latter is used only if the user chose bf16. Modulation layers go to the host before more is
    recomputed, as they are copied only once for many steps.
    """
    precisions: tuple[Precision, ...] = ("bf16", "int8", "nf4") if precision == "auto" else (precision,)
    for each in precisions:
        product = budget.requirements.products[0].product if each == "int8" else "bf16"
        every = recompute_options(budget.engine, each, product)
        options = every if checkpointing is None else (_recomputed(checkpointing),)
        smallest = MemoryConfiguration(each, options[-1], modulation_on_host=True, product=product)
        for recomputed in options:
            if recomputed == "blocks" and len(options) > 1:
                yield from _partly_recomputed(budget, replace(smallest, recomputed=options[-2]))
            for on_host in (False, True):
                yield replace(smallest, recomputed=recomputed, modulation_on_host=on_host)
        if "blocks" in options and (each != "bf16" or precision == "bf16"):
            yield from _streamed_configurations(budget, smallest)


def _partly_recomputed(budget: _Budget, configuration: MemoryConfiguration) -> Iterator[MemoryConfiguration]:
    """The configuration with as few blocks recomputed as a whole as fit; none if it fits without."""
    if _training_bytes(budget, configuration) > budget.free_bytes:
        partly = map(configuration.with_whole_blocks, range(1, budget.requirements.shape.blocks))
        yield from islice((each for each in partly if _training_bytes(budget, each) <= budget.free_bytes), 1)


def _streamed_configurations(budget: _Budget, configuration: MemoryConfiguration) -> Iterator[MemoryConfiguration]:
    """The configuration with as few streamed blocks as fit, and with all blocks streamed. Leaves out numbers so small
    that the slots for streaming take more memory than they free."""
    shape = budget.requirements.shape
    counts = [n for n in range(1, shape.blocks + 1) if shape.offloaded_weights(n, with_modulation=False) > 0]
    fitting = (n for n in counts if _training_bytes(budget, configuration.with_streamed_blocks(n)) <= budget.free_bytes)
    for count in dict.fromkeys((next(fitting, shape.blocks), shape.blocks)):
        yield configuration.with_streamed_blocks(count)


def _cpu_configurations(
    precision: Precision | Literal["auto"], checkpointing: bool | None
) -> list[MemoryConfiguration]:
    return [
        MemoryConfiguration(
            "fp32" if precision == "auto" else precision, _recomputed(checkpointing), modulation_on_host=False
        )
    ]


def _recomputed(checkpointing: bool | None) -> Recomputed:
    return "blocks" if checkpointing else "nothing"


def _plan(budget: _Budget, configuration: MemoryConfiguration) -> Plan:
    encoders = _encoders(budget.requirements, budget.free_bytes) if budget.on_gpu else "together"
    peak = max(_training_bytes(budget, configuration), _encoding_bytes(budget.requirements, encoders))
    return Plan(
        configuration,
        budget.requirements.shape.blocks,
        encoders,
        budget.engine,
        peak,
        budget.free_bytes,
        budget.requirements.products,
    )


def _training_bytes(budget: _Budget, configuration: MemoryConfiguration) -> float:
    requirements, value = budget.requirements, configuration.value_bytes(on_gpu=budget.on_gpu)
    is_autocast = budget.engine == "plain" and value == BF16
    base = weight_bytes(requirements.shape, configuration, on_gpu=budget.on_gpu)
    lora = lora_bytes(requirements.lora_parameters, optimizer_bytes=requirements.optimizer_bytes)
    copies = requirements.lora_parameters * value if budget.engine == "fast" or is_autocast else 0
    activations = activation_bytes(
        requirements,
        recomputed=configuration.recomputed,
        whole_blocks=configuration.whole_blocks,
        value_bytes=value,
        is_autocast=is_autocast,
    )
    int8_units = UNITS_IN_8_BITS[configuration.product] if configuration.precision == "int8" else 0
    transient = (TRANSIENT_UNITS + int8_units) * _unit_bytes(requirements, value)
    largest = 6 * requirements.shape.width**2 * value  # the largest weight that is dequantized or transferred
    transferred = largest if configuration.modulation_on_host or configuration.precision in ("int8", "nf4") else 0
    precomputed = PRECOMPUTED_BYTES * (1 + requirements.is_preserving) if configuration.modulation_on_host else 0
    return base + lora + copies + activations + transient + transferred + precomputed + WORKSPACE


def _unit_bytes(requirements: MemoryRequirements, value_bytes: int) -> int:
    tokens = requirements.image_tokens + requirements.text_tokens
    return requirements.batch_size * tokens * requirements.shape.width * value_bytes


def _encoders(requirements: MemoryRequirements, free_bytes: float) -> EncoderPlacement:
    """The fastest placement of the encoders that fits; they are freed before the training."""
    if _encoding_bytes(requirements, "together") <= free_bytes:
        return "together"
    return "in turn" if _encoding_bytes(requirements, "in turn") <= free_bytes else "host"


def _encoding_bytes(requirements: MemoryRequirements, encoders: EncoderPlacement) -> float:
    vae = requirements.vae_bytes + requirements.image_tokens * PIXELS_PER_TOKEN * VAE_BYTES_PER_PIXEL
    parts = (*requirements.encoder_bytes, vae)
    return {"together": sum(parts), "in turn": max(parts), "host": 0}[encoders] + WORKSPACE
