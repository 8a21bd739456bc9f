"""Plan how a training fits into memory: from numbers to a ladder of plans. Knows no model, no device and no library.

Counted, and checked against what is allocated on a CPU: weights, the LoRA with its optimizer, and what autograd saves.
Estimated, and not measured on CUDA: TRANSIENT_UNITS, UNITS_IN_8_BITS, WORKSPACE, VAE_BYTES_PER_PIXEL and the units of
autocast, which were counted with tensors that hold no data.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Literal

from lora.engine.options import PRECOMPUTED_BYTES, Engine, Recomputed
from lora.engine.precision import Precision
from lora.flux.dimensions import Dimensions
from lora.training.memory.activations import most_units, rungs
from lora.training.memory.weights import BF16, FP32, MemoryConfiguration, weight_bytes

EncoderPlacement = Literal["together", "in turn", "host"]
ENCODER_PLACEMENTS: tuple[EncoderPlacement, ...] = ("together", "in turn", "host")  # from the fastest to the smallest

GB = 1e9
LORA_BYTES = 3 * FP32  # of a parameter, beside the optimizer's: itself, its gradient, its average (EMA)
TRANSIENT_UNITS = 12  # gradients on their way through the widest part of a block
# A product of 8 bits, four times as wide as a block, in int32 and in fp32 at once, before it is rounded to bf16.
UNITS_IN_8_BITS = 20
WORKSPACE = 500_000_000  # of libraries, and what the allocator cannot use
PIXELS_PER_TOKEN = 16 * 16
VAE_BYTES_PER_PIXEL = 6 * 128 * BF16  # six maps of its first level at once


@dataclass(frozen=True, slots=True)
class MemoryRequirements:
    """What a training asks for."""

    shape: Dimensions
    image_tokens: int  # of the largest training size
    text_tokens: int
    batch_size: int
    lora_parameters: int
    optimizer_bytes: float  # of state, for each LoRA parameter
    encoder_bytes: tuple[int, ...]  # of each text encoder
    vae_bytes: int
    is_preserving: bool  # beside each batch of training another one, one after the other


@dataclass(frozen=True, slots=True)
class Plan:
    """How the base is held, what is recomputed, where the encoders work; and the memory that this should take."""

    rung: MemoryConfiguration
    blocks: int  # of the transformer
    encoders: EncoderPlacement
    engine: Engine
    peak_bytes: float
    free_bytes: float

    @property
    def fits(self) -> bool:
        """Whether the predicted peak is in what is free."""
        return self.peak_bytes <= self.free_bytes

    def settings(self) -> dict[str, object]:
        """What was left to the plan, as it is done."""
        return {
            "precision": self.rung.precision,
            "gradient_checkpointing": self.rung.recomputed != "nothing",
            "recomputed": self.rung.recomputed,
            "modulation_on_host": self.rung.modulation_on_host,
            "streamed_blocks": self.rung.streamed_blocks,
            "engine": self.engine,
        }

    def line(self) -> str:
        """The plan in one line for a person; GB are 10^9 bytes."""
        activations = {
            "nothing": "activations kept",
            "pointwise": "activations recomputed as far as that is cheap",
            "gelu": "activations recomputed but for attention",
            "blocks": "activations recomputed",
        }[self.rung.recomputed]
        modulation = ", modulation layers in host memory" if self.rung.modulation_on_host else ""
        streamed = f", {self.rung.streamed_blocks} of {self.blocks} blocks streamed from it"
        places = {"together": "together", "in turn": "one at a time", "host": "in host memory"}
        peak = f"predicted peak {self.peak_bytes / GB:.1f} of {self.free_bytes / GB:.1f} GB free"
        doubt = "" if self.fits else ", which may not fit"
        base = (
            f"base in {self.rung.precision}, {activations}{modulation}{streamed if self.rung.streamed_blocks else ''}"
        )
        return f"plan: {base}, encoders {places[self.encoders]}; {peak}{doubt}"


def plans(
    requirements: MemoryRequirements,
    *,
    free_bytes: float,
    on_gpu: bool,
    precision: Precision | Literal["auto"],
    checkpointing: bool | None,
    engine: Engine,
) -> tuple[Plan, ...]:
    """The best plan that fits, and those below it that need less: where memory runs out after all, the next is worth a
    try.

    `precision` and `checkpointing` are a person's wish ("auto" and None if there is none), which every plan grants.
    Where nothing fits, the smallest plan alone.
    """
    room = _Room(requirements, free_bytes, on_gpu, engine)
    ways = _gpu_rungs(room, precision, checkpointing) if on_gpu else _cpu_rungs(precision, checkpointing)
    every = [_plan(room, rung) for rung in ways]
    fitting = (place for place, plan in enumerate(every) if plan.fits)
    return _descending(every[next(fitting, -1) :])


def _descending(ladder: list[Plan]) -> tuple[Plan, ...]:
    """Without those that need more than one before them; where the encoders need most, all need the same."""
    smallest = accumulate((plan.peak_bytes for plan in ladder[:-1]), min, initial=math.inf)
    return tuple(plan for plan, least in zip(ladder, smallest, strict=True) if plan.peak_bytes <= least)


def lora_bytes(parameters: int, *, optimizer_bytes: float) -> float:
    """A LoRA in fp32 with its gradients, its average and its optimizer's state."""
    return parameters * (LORA_BYTES + optimizer_bytes)


def activation_bytes(
    requirements: MemoryRequirements, *, recomputed: Recomputed, value_bytes: int, is_autocast: bool
) -> float:
    """What autograd keeps at the most, with a LoRA on each linear layer of the blocks; of values of so many bytes."""
    shape = requirements.shape
    units = most_units(
        doubles=shape.num_layers, singles=shape.num_single_layers, recomputed=recomputed, is_autocast=is_autocast
    )
    return units * _unit_bytes(requirements, value_bytes)


@dataclass(frozen=True, slots=True)
class _Room:
    """What has to go where."""

    requirements: MemoryRequirements
    free_bytes: float
    on_gpu: bool
    engine: Engine


def _gpu_rungs(
    room: _Room, precision: Precision | Literal["auto"], checkpointing: bool | None
) -> Iterator[MemoryConfiguration]:
    """From the best to the smallest. Time is given up before precision, with one exception: int8 costs little of it,
    and a base in bf16 that streams much time, which is taken only if bf16 is asked for."""
    precisions: tuple[Precision, ...] = ("bf16", "int8", "nf4") if precision == "auto" else (precision,)
    for held in precisions:
        kinds = rungs(room.engine, held) if checkpointing is None else (_asked(checkpointing),)
        for on_host, recomputed in product((False, True), kinds):
            yield MemoryConfiguration(held, recomputed, on_host)
        if "blocks" in kinds and (held != "bf16" or precision == "bf16"):
            yield from _streaming(room, MemoryConfiguration(held, "blocks", modulation_on_host=True))


def _streaming(room: _Room, rung: MemoryConfiguration) -> Iterator[MemoryConfiguration]:
    """With as many blocks streamed as have to be, and with all of them. Few would need more than none, as their slots
    take."""
    shape = room.requirements.shape
    counts = [n for n in range(1, shape.blocks + 1) if shape.offloaded_weights(n, with_modulation=False) > 0]
    fitting = (n for n in counts if _training_bytes(room, rung.streaming(n)) <= room.free_bytes)
    for count in dict.fromkeys((next(fitting, shape.blocks), shape.blocks)):
        yield rung.streaming(count)


def _cpu_rungs(precision: Precision | Literal["auto"], checkpointing: bool | None) -> list[MemoryConfiguration]:
    return [
        MemoryConfiguration(
            "fp32" if precision == "auto" else precision, _asked(checkpointing), modulation_on_host=False
        )
    ]


def _asked(checkpointing: bool | None) -> Recomputed:
    return "blocks" if checkpointing else "nothing"


def _plan(room: _Room, rung: MemoryConfiguration) -> Plan:
    encoders = _encoders(room.requirements, room.free_bytes) if room.on_gpu else "together"
    peak = max(_training_bytes(room, rung), _encoding_bytes(room.requirements, encoders))
    return Plan(rung, room.requirements.shape.blocks, encoders, room.engine, peak, room.free_bytes)


def _training_bytes(room: _Room, rung: MemoryConfiguration) -> float:
    requirements, value = room.requirements, rung.value_bytes(on_gpu=room.on_gpu)
    is_autocast = room.engine == "plain" and value == BF16
    base = weight_bytes(requirements.shape, rung, on_gpu=room.on_gpu)
    lora = lora_bytes(requirements.lora_parameters, optimizer_bytes=requirements.optimizer_bytes)
    copies = requirements.lora_parameters * value if room.engine == "fast" or is_autocast else 0
    activations = activation_bytes(requirements, recomputed=rung.recomputed, value_bytes=value, is_autocast=is_autocast)
    in_8_bits = UNITS_IN_8_BITS if room.on_gpu and rung.precision == "int8" else 0
    transient = (TRANSIENT_UNITS + in_8_bits) * _unit_bytes(requirements, value)
    largest = 6 * requirements.shape.width**2 * value  # of a weight that is made anew, or visits
    visiting = largest if rung.modulation_on_host or rung.precision in ("int8", "nf4") else 0
    ahead = PRECOMPUTED_BYTES * (1 + requirements.is_preserving) if rung.modulation_on_host else 0
    return base + lora + copies + activations + transient + visiting + ahead + WORKSPACE


def _unit_bytes(requirements: MemoryRequirements, value_bytes: int) -> int:
    tokens = requirements.image_tokens + requirements.text_tokens
    return requirements.batch_size * tokens * requirements.shape.width * value_bytes


def _encoders(requirements: MemoryRequirements, free_bytes: float) -> EncoderPlacement:
    """How the encoders, which are gone before the training, fit by themselves."""
    if _encoding_bytes(requirements, "together") <= free_bytes:
        return "together"
    return "in turn" if _encoding_bytes(requirements, "in turn") <= free_bytes else "host"


def _encoding_bytes(requirements: MemoryRequirements, encoders: EncoderPlacement) -> float:
    vae = requirements.vae_bytes + requirements.image_tokens * PIXELS_PER_TOKEN * VAE_BYTES_PER_PIXEL
    parts = (*requirements.encoder_bytes, vae)
    return {"together": sum(parts), "in turn": max(parts), "host": 0}[encoders] + WORKSPACE
