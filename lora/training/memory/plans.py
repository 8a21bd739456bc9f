"""Plan how a training fits into memory: from numbers to a ladder of plans. Knows no model, no device and no library.

Counted, and checked against what is allocated on a CPU: weights, the LoRA with its optimizer, and what autograd saves.
Estimated, and not measured on CUDA: TRANSIENT_UNITS, UNITS_IN_8_BITS, WORKSPACE, VAE_BYTES_PER_PIXEL and the units of
autocast, which were counted with tensors that hold no data.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Any, Literal

from lora.flux.engine.choices import AHEAD_BYTES, Engine, Recomputed
from lora.flux.precision import Precision
from lora.training.memory.activations import most_units, rungs

Encoders = Literal["together", "in turn", "host"]
ENCODERS: tuple[Encoders, ...] = ("together", "in turn", "host")  # from the fastest to the smallest
Rung = tuple[Precision, Recomputed, bool]  # precision, what is recomputed, modulation on host

GB = 1e9
FP32, BF16 = 4, 2
INT8, INT8_ROW = 1, 4  # a code for each weight, and a scale in fp32 for each row
# A code for each weight; for each block of 64 a scale in 8 bits, and for 256 of those a scale in fp32 (QLoRA, 2.).
NF4 = 0.5 + (1 + 4 / 256) / 64
NF4_LAYER = FP32 * (16 + 256 + 1)  # both tables of codes and a mean, of each layer
TIME_CHANNELS = 256

LORA_BYTES = 3 * FP32  # of a parameter, beside the optimizer's: itself, its gradient, its average (EMA)
TRANSIENT_UNITS = 12  # gradients on their way through the widest part of a block
# A product of 8 bits, four times as wide as a block, in int32 and in fp32 at once, before it is rounded to bf16.
UNITS_IN_8_BITS = 20
WORKSPACE = 500_000_000  # of libraries, and what the allocator cannot use
PIXELS_PER_TOKEN = 16 * 16
VAE_BYTES_PER_PIXEL = 6 * 128 * BF16  # six maps of its first level at once


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a FLUX transformer."""

    num_layers: int
    num_single_layers: int
    width: int
    joint_attention_dim: int
    pooled_dim: int
    in_channels: int
    guidance_embeds: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """From a transformer's configuration, as in its config.json."""
        return cls(
            config["num_layers"],
            config["num_single_layers"],
            config["num_attention_heads"] * config["attention_head_dim"],
            config["joint_attention_dim"],
            config["pooled_projection_dim"],
            config["in_channels"],
            config["guidance_embeds"],
        )

    @property
    def modulation_rows(self) -> int:
        """Outputs of all modulation layers in the blocks, each of which has `width` inputs."""
        return self.width * (self.num_layers * 2 * 6 + self.num_single_layers * 3)

    @property
    def block_rows(self) -> int:
        """Outputs of all other linear layers in the blocks."""
        double, single = 8 + 2 * (4 + 1), 3 + 4 + 1
        return self.width * (self.num_layers * double + self.num_single_layers * single)

    @property
    def block_weights(self) -> int:
        """Weights of those layers."""
        double, single = 8 + 2 * (4 + 4), 3 + 4 + 5
        return self.width**2 * (self.num_layers * double + self.num_single_layers * single)

    @property
    def modulation_layers(self) -> int:
        """How many modulation layers the blocks hold."""
        return self.num_layers * 2 + self.num_single_layers

    @property
    def block_layers(self) -> int:
        """How many other linear layers they hold."""
        return self.num_layers * 12 + self.num_single_layers * 5

    @property
    def outer_parameters(self) -> int:
        """All parameters outside the blocks: embedders, norm_out and proj_out."""
        numbers = 2 if self.guidance_embeds else 1  # the timestep, and the guidance
        inputs = self.in_channels + self.joint_attention_dim + numbers * TIME_CHANNELS + self.pooled_dim
        squares, biases = numbers + 1 + 2, 2 + 2 * (numbers + 1) + 2
        proj_out = self.in_channels * (self.width + 1)
        return self.width * (inputs + squares * self.width + biases) + proj_out


@dataclass(frozen=True, slots=True)
class Demand:
    """What a training asks for."""

    shape: Shape
    image_tokens: int  # of the largest training size
    text_tokens: int
    batch_size: int
    lora_parameters: int
    optimizer_bytes: float  # of state, for each LoRA parameter
    encoder_bytes: tuple[int, ...]  # of each text encoder
    vae_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How the base is held, what is recomputed, where the encoders work; and the memory that this should take."""

    precision: Precision
    recomputed: Recomputed
    modulation_on_host: bool
    encoders: Encoders
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
            "precision": self.precision,
            "gradient_checkpointing": self.recomputed != "nothing",
            "recomputed": self.recomputed,
            "modulation_on_host": self.modulation_on_host,
            "engine": self.engine,
        }

    def line(self) -> str:
        """The plan in one line for a person; GB are 10^9 bytes."""
        activations = {
            "nothing": "activations kept",
            "pointwise": "activations recomputed as far as that is cheap",
            "gelu": "activations recomputed but for attention",
            "blocks": "activations recomputed",
        }[self.recomputed]
        modulation = ", modulation layers in host memory" if self.modulation_on_host else ""
        places = {"together": "together", "in turn": "one at a time", "host": "in host memory"}
        peak = f"predicted peak {self.peak_bytes / GB:.1f} of {self.free_bytes / GB:.1f} GB free"
        doubt = "" if self.fits else ", which may not fit"
        base = f"base in {self.precision}, {activations}{modulation}, encoders {places[self.encoders]}"
        return f"plan: {base}; {peak}{doubt}"


def plans(
    demand: Demand,
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
    ways = _gpu_rungs(precision, checkpointing, engine) if on_gpu else _cpu_rungs(precision, checkpointing)
    every = [_plan(demand, rung, free_bytes=free_bytes, on_gpu=on_gpu, engine=engine) for rung in ways]
    fitting = (place for place, plan in enumerate(every) if plan.fits)
    return _descending(every[next(fitting, -1) :])


def _descending(ladder: list[Plan]) -> tuple[Plan, ...]:
    """Without those that need more than one before them; where the encoders need most, all need the same."""
    smallest = accumulate((plan.peak_bytes for plan in ladder[:-1]), min, initial=math.inf)
    return tuple(plan for plan, least in zip(ladder, smallest, strict=True) if plan.peak_bytes <= least)


def weight_bytes(shape: Shape, *, precision: Precision, modulation_on_host: bool, on_gpu: bool) -> float:
    """What the frozen base takes on the device; norms of q and k, some thousand numbers, do not count."""
    other = BF16 if precision == "bf16" or (on_gpu and precision != "fp32") else FP32
    rows = shape.block_rows + (0 if modulation_on_host else shape.modulation_rows)
    weights = shape.block_weights + (0 if modulation_on_host else shape.modulation_rows * shape.width)
    layers = shape.block_layers + (0 if modulation_on_host else shape.modulation_layers)
    biases = shape.block_rows + shape.modulation_rows
    each, each_row, each_layer = {"int8": (INT8, INT8_ROW, 0), "nf4": (NF4, 0, NF4_LAYER)}.get(precision, (other, 0, 0))
    in_blocks = weights * each + rows * each_row + layers * each_layer
    return in_blocks + (biases + shape.outer_parameters) * other


def lora_bytes(parameters: int, *, optimizer_bytes: float) -> float:
    """A LoRA in fp32 with its gradients, its average and its optimizer's state."""
    return parameters * (LORA_BYTES + optimizer_bytes)


def activation_bytes(demand: Demand, *, recomputed: Recomputed, value_bytes: int, is_autocast: bool) -> float:
    """What autograd keeps at the most, with a LoRA on each linear layer of the blocks; of values of so many bytes."""
    shape = demand.shape
    units = most_units(
        doubles=shape.num_layers, singles=shape.num_single_layers, recomputed=recomputed, is_autocast=is_autocast
    )
    return units * _unit_bytes(demand, value_bytes)


def _gpu_rungs(precision: Precision | Literal["auto"], checkpointing: bool | None, engine: Engine) -> list[Rung]:
    """From the best to the smallest. Time is given up before precision."""
    precisions: tuple[Precision, ...] = ("bf16", "int8", "nf4") if precision == "auto" else (precision,)
    return [
        (held, recomputed, on_host)
        for held, on_host in product(precisions, (False, True))
        for recomputed in (rungs(engine, held) if checkpointing is None else (_asked(checkpointing),))
    ]


def _cpu_rungs(precision: Precision | Literal["auto"], checkpointing: bool | None) -> list[Rung]:
    return [("fp32" if precision == "auto" else precision, _asked(checkpointing), False)]


def _asked(checkpointing: bool | None) -> Recomputed:
    return "blocks" if checkpointing else "nothing"


def _plan(demand: Demand, rung: Rung, *, free_bytes: float, on_gpu: bool, engine: Engine) -> Plan:
    precision, recomputed, on_host = rung
    encoders = _encoders(demand, free_bytes) if on_gpu else "together"
    training = _training_bytes(demand, rung, on_gpu=on_gpu, engine=engine)
    peak = max(training, _encoding_bytes(demand, encoders))
    return Plan(precision, recomputed, on_host, encoders, engine, peak, free_bytes)


def _training_bytes(demand: Demand, rung: Rung, *, on_gpu: bool, engine: Engine) -> float:
    precision, recomputed, on_host = rung
    value = BF16 if precision == "bf16" or (on_gpu and precision != "fp32") else FP32
    is_autocast = engine == "plain" and value == BF16
    base = weight_bytes(demand.shape, precision=precision, modulation_on_host=on_host, on_gpu=on_gpu)
    lora = lora_bytes(demand.lora_parameters, optimizer_bytes=demand.optimizer_bytes)
    copies = demand.lora_parameters * value if engine == "fast" or is_autocast else 0
    activations = activation_bytes(demand, recomputed=recomputed, value_bytes=value, is_autocast=is_autocast)
    in_8_bits = UNITS_IN_8_BITS if on_gpu and precision == "int8" else 0
    transient = (TRANSIENT_UNITS + in_8_bits) * _unit_bytes(demand, value)
    largest = 6 * demand.shape.width**2 * value  # of a weight that is made anew, or visits
    visiting = largest if on_host or precision in ("int8", "nf4") else 0
    ahead = AHEAD_BYTES if on_host else 0
    return base + lora + copies + activations + transient + visiting + ahead + WORKSPACE


def _unit_bytes(demand: Demand, value_bytes: int) -> int:
    tokens = demand.image_tokens + demand.text_tokens
    return demand.batch_size * tokens * demand.shape.width * value_bytes


def _encoders(demand: Demand, free_bytes: float) -> Encoders:
    """How the encoders, which are gone before the training, fit by themselves."""
    if _encoding_bytes(demand, "together") <= free_bytes:
        return "together"
    return "in turn" if _encoding_bytes(demand, "in turn") <= free_bytes else "host"


def _encoding_bytes(demand: Demand, encoders: Encoders) -> float:
    vae = demand.vae_bytes + demand.image_tokens * PIXELS_PER_TOKEN * VAE_BYTES_PER_PIXEL
    parts = (*demand.encoder_bytes, vae)
    return {"together": sum(parts), "in turn": max(parts), "host": 0}[encoders] + WORKSPACE
