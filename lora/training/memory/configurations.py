"""Plan how a training fits into memory: memory configurations in order of preference, with fallbacks that need less.

Computes with numbers only; knows no model, no device and no library. Counted, and checked against allocations on a CPU:
weights, the LoRA with its optimizer, and the activations that autograd keeps. Estimated, and not measured on CUDA:
TRANSIENT_UNITS, UNITS_IN_8_BITS, WORKSPACE, HOST_WORKSPACE, VAE_BYTES_PER_PIXEL and the units of autocast, which were
counted with tensors without data.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, product
from typing import Literal

from lora.engine.options import PRECOMPUTED_BYTES, Engine, Recomputed
from lora.engine.precision import Precision
from lora.flux.dimensions import Dimensions
from lora.training.memory.activations import most_units, recompute_options
from lora.training.memory.encoders import ENCODER_PLACEMENTS, EncoderPlacement, encoding_bytes, vae_activation_bytes
from lora.training.memory.host import HOST_WORKSPACE, HostMemory, pinned_bytes
from lora.training.memory.weights import BF16, FP32, MemoryConfiguration, weight_bytes

GB = 1e9
LORA_BYTES = 3 * FP32  # per parameter, without the optimizer's state: its value, its gradient, its average (EMA)
TRANSIENT_UNITS = 12  # gradients inside the widest part of a block during the backward pass
# The result of an int8 matmul, four times as wide as a block, in int32 and fp32 at once before it is rounded to bf16.
UNITS_IN_8_BITS = 20
WORKSPACE = 500_000_000  # of libraries, and fragmentation of the allocator


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
    is_validated: bool = False
    sample_tokens: int = 0  # of a sample image; 0 without samples
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """A memory configuration, the placement of the encoders, and the predicted peak memory."""

    configuration: MemoryConfiguration
    blocks: int  # of the transformer
    encoders: EncoderPlacement
    engine: Engine
    peak_bytes: float
    least_bytes: float  # of the peak, what is counted and certain: weights and LoRA
    free_bytes: float
    host: HostMemory  # beside the device; without a GPU, the device is the host, and nothing is counted here

    @property
    def fits(self) -> bool:
        """Whether the predicted peaks fit into the free memory of the device and of the host."""
        return self.peak_bytes <= self.free_bytes and self.host.fits

    def settings(self) -> dict[str, object]:
        """The settings that the plan decides, by name."""
        return {
            "precision": self.configuration.precision,
            "gradient_checkpointing": self.configuration.recomputed != "nothing",
            "recomputed": self.configuration.recomputed,
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
        modulation = ", modulation layers in host memory" if self.configuration.modulation_on_host else ""
        streamed = f", {self.configuration.streamed_blocks} of {self.blocks} blocks streamed from host memory"
        placements = {"together": "loaded together", "in turn": "loaded one at a time", "host": "in host memory"}
        peak = f"predicted peak {self.peak_bytes / GB:.1f} GB of {self.free_bytes / GB:.1f} GB free"
        slow = ", so that encoding is slow" if self.host.encoders > self.host.free else ""
        host = f", host memory {self.host.peak / GB:.1f} GB of {self.host.free / GB:.1f} GB free{slow}"
        warning = "" if self.fits else ", which may not fit"
        base = (
            f"base in {self.configuration.precision}, {activations}{modulation}"
            f"{streamed if self.configuration.streamed_blocks else ''}"
        )
        return f"plan: {base}, encoders {placements[self.encoders]}; {peak}{host if self.host.peak else ''}{warning}"


def plans(
    requirements: MemoryRequirements,
    *,
    free_bytes: float,
    free_host_bytes: float,
    on_gpu: bool,
    precision: Precision | Literal["auto"],
    checkpointing: bool | None,
    engine: Engine,
) -> tuple[Plan, ...]:
    """The best plan that fits, and its fallbacks, each of which needs less, in case memory runs out nevertheless.

    All plans keep to `precision` and `checkpointing` if the user chose them; "auto" and None leave the choice open. If
    no plan fits, the result is one plan alone: of those that fit on the device the one that needs least host memory, or
    else the smallest one.
    """
    budget = _Budget(requirements, free_bytes, free_host_bytes, on_gpu, engine)
    configurations = (
        _gpu_configurations(budget, precision, checkpointing)
        if on_gpu
        else _cpu_configurations(precision, checkpointing)
    )
    every = [_plan(budget, configuration) for configuration in configurations]
    candidates = [plan for plan in every if plan.host.fits]
    fitting = [index for index, plan in enumerate(candidates) if plan.fits]
    if fitting:
        return _descending(candidates[fitting[0] :])
    on_device = [plan for plan in every if plan.peak_bytes <= plan.free_bytes]
    return (min(on_device, key=lambda plan: plan.host.pinned, default=every[-1]),)


def _descending(candidates: list[Plan]) -> tuple[Plan, ...]:
    """Drop plans that need more than one before them. Plans whose peak is that of the encoders all need the same."""
    smallest = accumulate((plan.peak_bytes for plan in candidates[:-1]), min, initial=math.inf)
    return tuple(plan for plan, least in zip(candidates, smallest, strict=True) if plan.peak_bytes <= least)


def lora_bytes(parameters: int, *, optimizer_bytes: float) -> float:
    """Bytes of a LoRA in fp32 with its gradients, its average and its optimizer state."""
    return parameters * (LORA_BYTES + optimizer_bytes)


def activation_bytes(
    requirements: MemoryRequirements, *, recomputed: Recomputed, value_bytes: int, is_autocast: bool
) -> float:
    """Peak bytes of the activations that autograd keeps, with a LoRA on each linear layer of the blocks; a value has
    `value_bytes` bytes."""
    shape = requirements.shape
    units = most_units(
        doubles=shape.num_layers, singles=shape.num_single_layers, recomputed=recomputed, is_autocast=is_autocast
    )
    return units * _unit_bytes(requirements, value_bytes)


@dataclass(frozen=True, slots=True)
class _Budget:
    """The requirements, and the memory that they have to fit into."""

    requirements: MemoryRequirements
    free_bytes: float
    free_host_bytes: float
    on_gpu: bool
    engine: Engine


def _gpu_configurations(
    budget: _Budget, precision: Precision | Literal["auto"], checkpointing: bool | None
) -> Iterator[MemoryConfiguration]:
    """From the best configuration to the smallest.

    Speed is given up before precision, with one exception: int8 costs little precision, and streaming a bf16 base costs
    much time, so the latter is used only if the user chose bf16.
    """
    precisions: tuple[Precision, ...] = ("bf16", "int8", "nf4") if precision == "auto" else (precision,)
    for each in precisions:
        options = recompute_options(budget.engine, each) if checkpointing is None else (_recomputed(checkpointing),)
        for on_host, recomputed in product((False, True), options):
            yield MemoryConfiguration(each, recomputed, on_host)
        if "blocks" in options and (each != "bf16" or precision == "bf16"):
            yield from _streamed_configurations(budget, MemoryConfiguration(each, "blocks", modulation_on_host=True))


def _streamed_configurations(budget: _Budget, configuration: MemoryConfiguration) -> Iterator[MemoryConfiguration]:
    """The configuration with as few streamed blocks as fit, and with all blocks streamed. Leaves out numbers so small
    that the slots for streaming take more memory than they free."""
    shape = budget.requirements.shape
    counts = [n for n in range(1, shape.blocks + 1) if shape.offloaded_weights(n, with_modulation=False) > 0]
    fitting = (n for n in counts if _running_bytes(budget, configuration.with_streamed_blocks(n)) <= budget.free_bytes)
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
    peak = max(_running_bytes(budget, configuration), _encoding_bytes(budget.requirements, encoders))
    least, host = _least_bytes(budget, configuration), _host_memory(budget, configuration)
    blocks = budget.requirements.shape.blocks
    return Plan(configuration, blocks, encoders, budget.engine, peak, least, budget.free_bytes, host)


def _host_memory(budget: _Budget, configuration: MemoryConfiguration) -> HostMemory:
    """All encoders pass through host memory, wherever they run."""
    requirements, count = budget.requirements, budget.requirements.processes if budget.on_gpu else 0
    encoders = sum(requirements.encoder_bytes) + requirements.vae_bytes if budget.on_gpu else 0
    pinned = count * pinned_bytes(requirements.shape, configuration)
    return HostMemory(pinned, count * HOST_WORKSPACE, encoders, budget.free_host_bytes)


def _running_bytes(budget: _Budget, configuration: MemoryConfiguration) -> float:
    """Predicted peak after encoding: of the steps, or of what is done between them."""
    return max(_step_bytes(budget, configuration), _bytes_between_steps(budget, configuration))


def _step_bytes(budget: _Budget, configuration: MemoryConfiguration) -> float:
    value = configuration.value_bytes(on_gpu=budget.on_gpu)
    transient = TRANSIENT_UNITS * _unit_bytes(budget.requirements, value)
    return _resident_bytes(budget, configuration) + _forward_bytes(budget, configuration) + transient


def _bytes_between_steps(budget: _Budget, configuration: MemoryConfiguration) -> float:
    """Peak of validation and samples: with a copy of the LoRA's weights, while their average replaces them.
    Both pass forward as a step does (lora/training/learning/forward_passes.py)."""
    requirements, parts = budget.requirements, [0.0]
    if requirements.is_validated:
        parts.append(_forward_bytes(budget, configuration))
    if requirements.sample_tokens:
        of_one = replace(requirements, image_tokens=requirements.sample_tokens, batch_size=1)
        forward = _forward_bytes(replace(budget, requirements=of_one), configuration)
        parts.append(requirements.vae_bytes + max(forward, vae_activation_bytes(requirements.sample_tokens)))
    return _resident_bytes(budget, configuration) + requirements.lora_parameters * FP32 + max(parts)


def _least_bytes(budget: _Budget, configuration: MemoryConfiguration) -> float:
    """Bytes on the device, at any time of the training, of the base, the LoRA, its optimizer and its copies."""
    requirements, value = budget.requirements, configuration.value_bytes(on_gpu=budget.on_gpu)
    base = weight_bytes(requirements.shape, configuration, on_gpu=budget.on_gpu)
    lora = lora_bytes(requirements.lora_parameters, optimizer_bytes=requirements.optimizer_bytes)
    copies = requirements.lora_parameters * value if budget.engine == "fast" or _is_autocast(budget, value) else 0
    return base + lora + copies


def _resident_bytes(budget: _Budget, configuration: MemoryConfiguration) -> float:
    """The same, with buffers that are there in every pass."""
    requirements, value = budget.requirements, configuration.value_bytes(on_gpu=budget.on_gpu)
    largest = 6 * requirements.shape.width**2 * value  # the largest weight that is dequantized or transferred
    transferred = largest if configuration.modulation_on_host or configuration.precision in ("int8", "nf4") else 0
    precomputed = PRECOMPUTED_BYTES * (1 + requirements.is_preserving) if configuration.modulation_on_host else 0
    return _least_bytes(budget, configuration) + transferred + precomputed + WORKSPACE


def _forward_bytes(budget: _Budget, configuration: MemoryConfiguration) -> float:
    """Bytes of the activations of a forward pass that keeps what a backward pass needs."""
    requirements, value = budget.requirements, configuration.value_bytes(on_gpu=budget.on_gpu)
    int8_units = UNITS_IN_8_BITS if budget.on_gpu and configuration.precision == "int8" else 0
    activations = activation_bytes(
        requirements,
        recomputed=configuration.recomputed,
        value_bytes=value,
        is_autocast=_is_autocast(budget, value),
    )
    return activations + int8_units * _unit_bytes(requirements, value)


def _is_autocast(budget: _Budget, value_bytes: int) -> bool:
    return budget.engine == "plain" and value_bytes == BF16


def _unit_bytes(requirements: MemoryRequirements, value_bytes: int) -> int:
    tokens = requirements.image_tokens + requirements.text_tokens
    return requirements.batch_size * tokens * requirements.shape.width * value_bytes


def _encoders(requirements: MemoryRequirements, free_bytes: float) -> EncoderPlacement:
    """The fastest placement of the encoders that fits; they are freed before the training."""
    fitting = (each for each in ENCODER_PLACEMENTS if _encoding_bytes(requirements, each) <= free_bytes)
    return next(fitting, "host")


def _encoding_bytes(requirements: MemoryRequirements, encoders: EncoderPlacement) -> float:
    weights, tokens = (requirements.encoder_bytes, requirements.vae_bytes), requirements.image_tokens
    return encoding_bytes(encoders, *weights, image_tokens=tokens) + WORKSPACE
