"""Plan how a training fits into memory: memory configurations in order of preference, with fallbacks that need less.

Computes with numbers only; knows no model, no device and no library.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import Literal

from lora.engine.options import Engine, Recomputed
from lora.engine.precision import Precision, TimedMatmul
from lora.training.memory.activations import recompute_options
from lora.training.memory.encoders import ENCODER_PLACEMENTS, EncoderPlacement
from lora.training.memory.host import HostMemory
from lora.training.memory.prediction import MemoryPrediction, MemoryRequirements
from lora.training.memory.weights import MemoryConfiguration

GB = 1e9


@dataclass(frozen=True, slots=True)
class Plan:
    """A memory configuration, the placement of the encoders, and the predicted peak memory."""

    configuration: MemoryConfiguration
    blocks: int  # of the transformer
    activation: str  # in its feed-forwards
    encoders: EncoderPlacement
    engine: Engine
    peak_bytes: float
    least_bytes: float  # of the peak, what is counted and certain: weights and LoRA
    free_bytes: float
    host: HostMemory  # beside the device; without a GPU, the device is the host, and nothing is counted here
    matmuls: tuple[TimedMatmul, ...]  # of int8 layers, from the fastest, which is used

    @property
    def fits(self) -> bool:
        """Whether the predicted peaks fit into the free memory of the device and of the host."""
        return self.peak_bytes <= self.free_bytes and self.host.fits

    def settings(self) -> dict[str, object]:
        """The settings that the plan decides, by name."""
        return {
            "precision": self.configuration.precision,
            **({"int8_matmul": self.configuration.matmul} if self.configuration.precision == "int8" else {}),
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
            "gelu": f"pointwise activations and {self.activation} inputs recomputed",
            "blocks": "whole blocks recomputed",
        }[self.configuration.recomputed]
        whole = f", {self.configuration.whole_blocks} of {self.blocks} blocks recomputed as a whole"
        modulation = ", modulation layers in host memory" if self.configuration.modulation_on_host else ""
        streamed = f", {self.configuration.streamed_blocks} of {self.blocks} blocks streamed from host memory"
        placements = {"together": "loaded together", "in turn": "loaded one at a time", "host": "in host memory"}
        peak = f"predicted peak {self.peak_bytes / GB:.1f} GB of {self.free_bytes / GB:.1f} GB free"
        slow = "; too little for the text encoders, so encoding is slow" if self.host.encoders > self.host.free else ""
        host = f", host memory {self.host.peak / GB:.1f} GB of {self.host.free / GB:.1f} GB free{slow}"
        warning = "" if self.fits else ", which may not fit"
        base = (
            f"base in {self.configuration.precision}{self._matmul()}, {activations}"
            f"{whole if self.configuration.whole_blocks else ''}{modulation}"
            f"{streamed if self.configuration.streamed_blocks else ''}"
        )
        return f"plan: {base}, encoders {placements[self.encoders]}; {peak}{host if self.host.peak else ''}{warning}"

    def _matmul(self) -> str:
        """How int8 layers are multiplied, and the times that decided it, if they were measured."""
        if self.configuration.precision != "int8" or self.matmuls[0].milliseconds is None:
            return ""
        fastest, *others = map(str, self.matmuls)
        return f" with {fastest}" + (f" ({'; '.join(others)})" if others else "")


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
    budget = _Budget(MemoryPrediction(requirements, on_gpu, engine), free_bytes, free_host_bytes)
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


@dataclass(frozen=True, slots=True)
class _Budget:
    """What a training needs, and the memory that it has to fit into."""

    prediction: MemoryPrediction
    free_bytes: float
    free_host_bytes: float

    def has_room_for(self, configuration: MemoryConfiguration) -> bool:
        """Whether the training, after encoding, fits on the device."""
        return self.prediction.running_bytes(configuration) <= self.free_bytes

    def host_of(self, configuration: MemoryConfiguration) -> HostMemory:
        """The host memory of the training."""
        return self.prediction.host_memory(configuration, free=self.free_host_bytes)


def _gpu_configurations(
    budget: _Budget, precision: Precision | Literal["auto"], checkpointing: bool | None
) -> Iterator[MemoryConfiguration]:
    """From the best configuration to the smallest.

    Speed is given up before precision, with one exception: int8 costs little precision, and streaming a bf16 base costs
    much time, so the latter is used only if the user chose bf16. Modulation layers go to the host before more is
    recomputed, as they are copied only once for many steps.
    """
    places = _places_of_modulation(budget)
    precisions: tuple[Precision, ...] = ("bf16", "int8", "nf4") if precision == "auto" else (precision,)
    for each in precisions:
        matmul = budget.prediction.requirements.matmuls[0].matmul if each == "int8" else "bf16"
        every = recompute_options(budget.prediction.engine, each, matmul)
        options = every if checkpointing is None else (_recomputed(checkpointing),)
        smallest = MemoryConfiguration(each, options[-1], modulation_on_host=places[-1], matmul=matmul)
        for recomputed in options:
            if recomputed == "blocks" and len(options) > 1:
                yield from _partly_recomputed(budget, replace(smallest, recomputed=options[-2]))
            for on_host in places:
                yield replace(smallest, recomputed=recomputed, modulation_on_host=on_host)
        if "blocks" in options and (each != "bf16" or precision == "bf16"):
            yield from _streamed_configurations(budget, smallest)


def _places_of_modulation(budget: _Budget) -> tuple[bool, ...]:
    """Whether modulation layers are on the host, from the fastest option on; never if blocks have none of their own."""
    return (False, True) if budget.prediction.requirements.shape.modulation_layers else (False,)


def _partly_recomputed(budget: _Budget, configuration: MemoryConfiguration) -> Iterator[MemoryConfiguration]:
    """The configuration with as few blocks recomputed as a whole as fit; none if it fits without. Modulation layers are
    on the host if there is room for them."""
    counts = range(budget.prediction.requirements.shape.blocks)
    places = reversed(_places_of_modulation(budget))
    partly = (replace(configuration, modulation_on_host=each, whole_blocks=n) for each in places for n in counts)
    fitting = (each for each in partly if budget.has_room_for(each) and budget.host_of(each).fits)
    yield from (each for each in islice(fitting, 1) if each.whole_blocks)


def _streamed_configurations(budget: _Budget, configuration: MemoryConfiguration) -> Iterator[MemoryConfiguration]:
    """The configuration with as few streamed blocks as fit, and with all blocks streamed. Leaves out numbers so small
    that the slots for streaming take more memory than they free."""
    shape = budget.prediction.requirements.shape
    counts = [n for n in range(1, shape.blocks + 1) if shape.offloaded_weights(n, with_modulation=False) > 0]
    fitting = (n for n in counts if budget.has_room_for(configuration.with_streamed_blocks(n)))
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
    prediction = budget.prediction
    encoders = _encoders(budget) if prediction.on_gpu else "together"
    return Plan(
        configuration,
        blocks=prediction.requirements.shape.blocks,
        activation=prediction.requirements.shape.activation,
        encoders=encoders,
        engine=prediction.engine,
        peak_bytes=max(prediction.running_bytes(configuration), prediction.encoding_bytes(encoders)),
        least_bytes=prediction.least_bytes(configuration),
        free_bytes=budget.free_bytes,
        host=budget.host_of(configuration),
        matmuls=prediction.requirements.matmuls,
    )


def _encoders(budget: _Budget) -> EncoderPlacement:
    """The fastest placement of the encoders that fits; they are freed before the training."""
    fitting = (each for each in ENCODER_PLACEMENTS if budget.prediction.encoding_bytes(each) <= budget.free_bytes)
    return next(fitting, "host")
