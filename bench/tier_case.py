"""Train on a card of a given size as our plan says, in a process of its own, as its memory limit applies to the
process. Started by bench/tiers.py."""

import json
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import torch

from bench.random_flux import BASES, TransformerSizes, random_dataset, random_transformer
from bench.requirements import memory_requirements
from bench.step_loops import RANK, SEED, Inputs
from lora.base.device import device, precision
from lora.base.latents import TOKEN_PIXELS
from lora.base.transformer import spaced_blocks
from lora.engine.checkpointing import configure_blocks
from lora.engine.compilation import can_be_compiled
from lora.engine.lora_layers import fuse_lora
from lora.engine.matmuls import fastest_matmuls
from lora.engine.out_of_memory import is_out_of_memory
from lora.engine.precision import TimedMatmul
from lora.training.learning.adapter import add_lora
from lora.training.learning.data_parallel import SingleProcess
from lora.training.learning.loop import take_step
from lora.training.learning.state import TrainingState
from lora.training.memory.configurations import GB, Plan, plans
from lora.training.memory.requirements import weight_placement

CONTEXT = 0.6 * GB  # memory of a card that CUDA itself takes
OPTIMIZER, IMAGES = "adamw8bit", 4


@dataclass(frozen=True, slots=True)
class CardResult:
    """The result. Peaks are in bytes, None without a GPU."""

    card: int  # GB
    side: int  # pixels
    plan: str
    predicted: float
    allocated: int | None
    reserved: int | None
    seconds: float | None  # per step, the median; None if memory ran out


def main() -> None:
    """Read base, GB, pixels and steps from the command line; print the result in the last line."""
    base, (card, side, steps) = sys.argv[1], map(int, sys.argv[2:])
    if device().type == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (card * GB - CONTEXT) / total))
    print(json.dumps(asdict(measure_card(BASES[base], card=card, side=side, steps=steps))))


def measure_card(sizes: TransformerSizes, *, card: int, side: int, steps: int) -> CardResult:
    """Train with the best plan only, without fallbacks."""
    matmuls = fastest_matmuls(device(), rows=(side // TOKEN_PIXELS) ** 2 + sizes.text_tokens)
    plan = plan_for(sizes, card=card, side=side, matmuls=matmuls, on_gpu=device().type == "cuda")
    try:
        seconds = sorted(_steps(plan, sizes, side, steps))[steps // 2]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        seconds = None
    peaks: tuple[int | None, int | None] = (None, None)
    if device().type == "cuda":
        peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return CardResult(card, side, plan.line(), plan.peak_bytes, *peaks, seconds)


def plan_for(sizes: TransformerSizes, *, card: int, side: int, matmuls: tuple[TimedMatmul, ...], on_gpu: bool) -> Plan:
    """The plan for a LoRA on all layers; texts and images are already encoded."""
    layers = sizes.layers
    requirements = memory_requirements(sizes, layers, side=side, batch_size=1, optimizer=OPTIMIZER, matmuls=matmuls)
    best, *_ = plans(
        requirements,
        free_bytes=card * GB - CONTEXT,
        free_host_bytes=math.inf,  # the plan of a machine that has enough for its card
        on_gpu=on_gpu,
        precision="auto",
        checkpointing=None,
        engine="fast",
    )
    return best


def _steps(plan: Plan, sizes: TransformerSizes, side: int, steps: int) -> list[float]:
    """The seconds of each step, after two warm-up steps."""
    dataset = random_dataset(sizes, side=side, count=IMAGES, dtype=precision())
    inputs = Inputs(dataset, batch_size=1, patch=sizes.family.latents.patch)
    recipe, placement = replace(inputs.recipe, optimizer=OPTIMIZER), weight_placement(plan)
    transformer = random_transformer(sizes, placement)
    add_lora(transformer, layers=sizes.layers, rank=RANK, seed=SEED)
    fuse_lora(transformer)
    configure_blocks(
        transformer,
        plan.configuration.recomputed,
        are_compiled=can_be_compiled(placement.device),
        whole=spaced_blocks(transformer, plan.configuration.whole_blocks),
    )
    state, times = TrainingState(transformer, recipe), []
    for _ in range(steps + 2):
        take_step(transformer, state, inputs.batches, recipe, process_group=SingleProcess())  # waits for the device
        times.append(time.perf_counter())
    return [after - before for before, after in pairwise(times[1:])]


if __name__ == "__main__":
    main()
