"""How long an image takes with a LoRA, and switching to another LoRA, on random weights of the real shape.

Contenders run one after the other in one process, and then again in reverse, each on a new model with the same weights.
The error of 8 bits is measured on one velocity: with random weights, images themselves say nothing about quality.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from bench.clocks import as_line, clock_readings, median_mhz
from bench.lora_appliers import Hotswap, LoraApplier, Ours, OursFast, Stock
from bench.machine import machine
from bench.random_flux import (
    BASES,
    DEFAULT_BASE,
    Sizes,
    random_lora,
    random_pipeline,
    random_prompt,
    random_transformer,
    tiny_sizes,
)
from bench.report import table, write_results
from bench.timing import seconds_each, wait_for
from lora.base.device import device, free_memory, precision
from lora.base.family import SamplingSettings
from lora.base.prompt import Prompt
from lora.engine.compilation import graphs_compiled
from lora.families.frozen_transformer import WeightPlacement

RANKS = (16, 8, 16, 4)  # of the LoRAs; every other LoRA is on attention only
SIDE, WARM_UP_STEPS, ROUNDS = 1024, 4, 2
TEXT = "a photo of TOK"
SEED = 0
GB = 1e9


@dataclass(frozen=True, slots=True)
class Arm:
    """A contender."""

    name: str
    make_applier: Callable[[DiffusionPipeline], LoraApplier]
    has_lora: bool


EAGER = Arm("eager diffusers + PEFT LoRA", Stock, has_lora=True)
MERGED = Arm("ours, merged", Ours, has_lora=True)
ARMS = (
    EAGER,
    Arm("eager diffusers, no LoRA", Stock, has_lora=False),
    Arm("compiled diffusers, hotswapped LoRA", partial(Hotswap, most_rank=max(RANKS)), has_lora=True),
    MERGED,
    Arm("ours, go_fast", OursFast, has_lora=True),
)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    sizes: Sizes
    arms: tuple[Arm, ...]  # in the order in which they run
    side: int  # pixels
    steps: int  # of an image
    warm_up_steps: int
    rounds: int


def full(base: str) -> Extent:
    """One of BASES, with the steps that its family takes by default."""
    sizes = BASES[base]
    steps = sizes.family.sampling.defaults.steps
    return Extent(sizes, (*ARMS, *reversed(ARMS)), SIDE, steps, WARM_UP_STEPS, ROUNDS)


def small(base: str = DEFAULT_BASE) -> Extent:
    """A small configuration for a CPU."""
    return Extent(tiny_sizes(base), ARMS, side=64, steps=1, warm_up_steps=1, rounds=1)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of an arm. Seconds are by task; the time of an image does not include encoding its text."""

    arm: str
    ready: float  # seconds until the first LoRA is applied and an image of few steps is generated, including compiling
    seconds: dict[str, list[float]]
    graphs: int  # compiled after that
    error: float  # of a velocity, relative to the plain transformer's with the same LoRA (L2)
    peak_allocated: int | None  # bytes; None without a GPU
    sm_mhz: float | None


def compare(base: str, *, is_small: bool, output: Path | None) -> None:
    """Measure one of BASES, write the results, print a table."""
    extent = small(base) if is_small else full(base)
    with tempfile.TemporaryDirectory() as folder:
        files = write_loras(extent.sizes, Path(folder))
        measurements = list(_in_turn(extent, files))
    about = machine("torch", "diffusers", "peft", "transformers", "safetensors")
    settings = {"side": extent.side, "steps": extent.steps, "guidance": _guidance(extent.sizes), "lora_ranks": RANKS}
    numbers = {"machine": about, "settings": settings, "visits": [asdict(each) for each in measurements]}
    path = write_results(numbers, name=f"serving-random-{base}", output=output)
    print(f"wrote {path}\n{as_line([each.sm_mhz for each in measurements])}\n\n{as_markdown(measurements)}")


def write_loras(sizes: Sizes, folder: Path) -> list[Path]:
    """Write the LoRA files. The first LoRA is on all layers that any of them is on."""
    layers = sizes.layers
    attention = {name: shape for name, shape in layers.items() if ".attn." in name}
    files = []
    for number, rank in enumerate(RANKS):
        files.append(folder / f"lora{number}.safetensors")
        save_file(random_lora(attention if number % 2 else layers, rank=rank, seed=number), files[-1])
    return files


def _in_turn(extent: Extent, files: list[Path]) -> Iterator[Measurement]:
    for arm in extent.arms:
        print(f"{arm.name} ...", file=sys.stderr)
        yield _measure(arm, extent, files)
        free_memory()


def _measure(arm: Arm, extent: Extent, files: list[Path]) -> Measurement:
    here = device()
    if here.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pipeline = random_base(extent.sizes)
    with clock_readings() as clock:
        began = time.perf_counter()
        applier = arm.make_applier(pipeline)
        prepare(arm, applier, extent, files[0])
        wait_for(here)
        ready = time.perf_counter() - began
        before = graphs_compiled()
        seconds = {
            what: seconds_each(task, here, rounds=extent.rounds) for what, task in tasks(arm, applier, extent, files)
        }
    graphs, error = graphs_compiled() - before, velocity_error(applier, extent)
    peak = torch.cuda.max_memory_allocated() if here.type == "cuda" else None
    return Measurement(arm.name, ready, seconds, graphs, error, peak, median_mhz(clock))


def random_base(sizes: Sizes) -> DiffusionPipeline:
    """A pipeline with random weights, in bf16 on a GPU, for one arm: each changes it."""
    here = device()
    placement = WeightPlacement("bf16" if here.type == "cuda" else "fp32", modulation_on_host=False, device=here)
    return random_pipeline(sizes, random_transformer(sizes, placement))


Task = Callable[[int], object]


def tasks(arm: Arm, applier: LoraApplier, extent: Extent, files: list[Path]) -> Iterator[tuple[str, Task]]:
    """The tasks to time, in this order; the number of a round determines the LoRA or its scale."""
    vae, latent_side = applier.pipeline.vae, extent.side // applier.pipeline.vae_scale_factor
    latents = torch.randn(1, vae.config.latent_channels, latent_side, latent_side).to(device(), precision())
    yield "image", lambda _: generate(applier, extent, extent.steps)
    yield "text", lambda _: extent.sizes.family.text.encode(applier.pipeline, TEXT)
    yield "decoding", lambda _: _decode(applier.pipeline, latents)
    if arm.has_lora:
        yield "another LoRA", lambda number: applier.apply({files[(number + 1) % len(files)]: 1.0})
        yield "another scale", lambda number: applier.apply({files[0]: 0.9 - 0.1 * number})
        yield "step after", lambda _: generate(applier, extent, 1)


def prepare(arm: Arm, applier: LoraApplier, extent: Extent, file: Path) -> None:
    """Apply the arm's first LoRA, if it has one, and generate an image of few steps."""
    if arm.has_lora:
        applier.apply({file: 1.0})
    generate(applier, extent, extent.warm_up_steps)


def generate(applier: LoraApplier, extent: Extent, steps: int) -> None:
    """Generate an image, always the same."""
    with applier.generating():
        sampling = extent.sizes.family.sampling
        sampling.generate_image(applier.pipeline, *_prompts(applier.pipeline, extent.sizes), _settings(extent, steps))


def _settings(extent: Extent, steps: int) -> SamplingSettings:
    side, guidance = extent.side, _guidance(extent.sizes)
    return SamplingSettings(
        width=side, height=side, steps=steps, guidance=guidance, seed=SEED, after_step=lambda _: None
    )


def _guidance(sizes: Sizes) -> float:
    return sizes.family.sampling.defaults.guidance


def _prompts(pipeline: DiffusionPipeline, sizes: Sizes) -> tuple[Prompt, Prompt | None]:
    """The prompt for all arms, and the negative one if the family's guidance needs it; on the device."""
    prompt, negative = (
        random_prompt(sizes, torch.Generator().manual_seed(seed), precision()).to(device()) for seed in (SEED, SEED + 1)
    )
    return prompt, negative if sizes.family.sampling.needs_negative(pipeline, _guidance(sizes)) else None


@torch.no_grad()
def _decode(pipeline: DiffusionPipeline, latents: Tensor) -> None:
    pipeline.vae.decode(latents, return_dict=False)


def velocity_error(applier: LoraApplier, extent: Extent) -> float:
    """The error of a velocity with the applied LoRA, relative to the plain transformer's (L2). Compiles nothing again:
    the plain transformer, too, computes in the autograd mode in which images are generated."""
    with applier.computing():
        plain = _velocity(applier.pipeline, extent)
        with applier.generating():
            found = _velocity(applier.pipeline, extent)
        return float((found - plain).norm() / plain.norm())


def _velocity(pipeline: DiffusionPipeline, extent: Extent) -> Tensor:
    """The velocity of the prompt in the image's first step of one. It is the pipeline's own call of the transformer
    that is observed: another one would have other arguments (None instead of no `joint_attention_kwargs`) and compile
    all blocks again.
    """
    found: list[Tensor] = []
    hook = pipeline.transformer.register_forward_hook(lambda _model, _inputs, out: found.append(out[0].float().clone()))
    try:
        sampling = extent.sizes.family.sampling
        sampling.generate_latents(pipeline, *_prompts(pipeline, extent.sizes), _settings(extent, 1))
    finally:
        hook.remove()
    return found[0]


def as_markdown(measurements: list[Measurement]) -> str:
    """A table of medians over both runs of each arm."""
    timed = list(dict.fromkeys(what for each in measurements for what in each.seconds))
    arms = dict.fromkeys(each.arm for each in measurements)
    by_arm = {arm: [each for each in measurements if each.arm == arm] for arm in arms}
    images = {arm: _median(found, "image") for arm, found in by_arm.items()}
    titles = [
        "contender",
        *timed,
        f"speedup over {EAGER.name}",
        "ready",
        "error of the velocity",
        "graphs compiled during timing",
        "peak",
    ]
    rows = []
    for arm, found in by_arm.items():
        seconds = [f"{_median(found, what):.3f} s" if what in found[0].seconds else "" for what in timed]
        ready = f"{found[0].ready:.1f} s"
        error, peak = f"{found[0].error:.4f}", found[0].peak_allocated
        ratio = f"{images[EAGER.name] / images[arm]:.2f}"
        graphs = str(sum(each.graphs for each in found))
        rows.append([arm, *seconds, ratio, ready, error, graphs, f"{peak / GB:.1f} GB" if peak else ""])
    return table(titles, rows)


def _median(measurements: list[Measurement], what: str) -> float:
    return statistics.median(seconds for each in measurements for seconds in each.seconds[what])
