"""How long a picture of FLUX.1 takes with a LoRA worn, and another LoRA, on random weights of the real shape.

Contenders come one after the other in one process, and then once more in reverse, each on a model of its own of the
same weights. How far 8 bits are off is said of one velocity; of the looks of pictures, random weights say nothing.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file
from torch import Tensor

from bench.clocks import as_line, clock_readings, median_mhz
from bench.lora_appliers import Hotswap, LoraApplier, Ours, OursFast, Stock
from bench.machine import machine
from bench.random_flux import (
    DEV,
    LATENT_CHANNELS,
    VAE_FACTOR,
    Sizes,
    random_lora,
    random_pipeline,
    random_prompt,
    random_transformer,
    tiny_sizes,
)
from bench.report import keep, table
from bench.timing import graphs_compiled, seconds_each
from lora.flux.frozen_transformer import WeightPlacement
from lora.flux.loading import device, free_memory, precision
from lora.flux.prompt import Prompt, encode_prompt
from lora.flux.sampling import generate_image
from lora.flux.velocity import predict_velocity
from lora.training.recipe.layers import block_layers

GUIDANCE = 3.5
RANKS = (16, 8, 16, 4)  # of the LoRAs; every other one is on attention only
SIDE, STEPS, WARM_UP_STEPS, ROUNDS = 1024, 28, 4, 2
TEXT = "a photo of TOK"
SEED = 0
GB = 1e9


@dataclass(frozen=True, slots=True)
class Arm:
    """A contender."""

    name: str
    dressed: Callable[[FluxPipeline], LoraApplier]
    wears: bool


EAGER = Arm("eager diffusers + PEFT LoRA", Stock, wears=True)
ARMS = (
    EAGER,
    Arm("eager diffusers, no LoRA", Stock, wears=False),
    Arm("compiled diffusers, hotswapped LoRA", partial(Hotswap, most_rank=max(RANKS)), wears=True),
    Arm("ours, merged", Ours, wears=True),
    Arm("ours, go_fast", OursFast, wears=True),
)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    sizes: Sizes
    arms: tuple[Arm, ...]  # in the order in which they are visited
    side: int  # pixels
    steps: int  # of a picture
    warm_up_steps: int
    rounds: int


FULL = Extent(DEV, (*ARMS, *reversed(ARMS)), SIDE, STEPS, WARM_UP_STEPS, ROUNDS)


def small() -> Extent:
    """For a CPU."""
    return Extent(tiny_sizes(), ARMS, side=64, steps=1, warm_up_steps=1, rounds=1)


@dataclass(frozen=True, slots=True)
class Visit:
    """One arm, once. Seconds are by what was done; a picture is one whose text is encoded."""

    arm: str
    ready: float  # seconds from a model to the first LoRA worn and a first picture of few steps, compiling among them
    seconds: dict[str, list[float]]
    graphs: int  # compiled after that
    error: float  # of a velocity, against that of the plain transformer which wears the same: relative, L2
    peak_allocated: int | None  # bytes; None without a GPU
    sm_mhz: float | None


def compare(extent: Extent, *, output: Path | None) -> None:
    """Measure, keep the numbers, print a table."""
    with tempfile.TemporaryDirectory() as folder:
        files = _loras(extent.sizes, Path(folder))
        visits = list(_in_turn(extent, files))
    about = machine("torch", "diffusers", "peft", "transformers", "safetensors")
    settings = {"side": extent.side, "steps": extent.steps, "guidance": GUIDANCE, "lora_ranks": RANKS}
    numbers = {"machine": about, "settings": settings, "visits": [asdict(visit) for visit in visits]}
    path = keep(numbers, name="serving-random", output=output)
    print(f"wrote {path}\n{as_line([visit.sm_mhz for visit in visits])}\n\n{as_markdown(visits)}")


def _loras(sizes: Sizes, folder: Path) -> list[Path]:
    """The first is on all layers that any of them is on."""
    layers = block_layers(sizes.transformer)
    attention = {name: shape for name, shape in layers.items() if ".attn." in name}
    files = []
    for number, rank in enumerate(RANKS):
        files.append(folder / f"lora{number}.safetensors")
        save_file(random_lora(attention if number % 2 else layers, rank=rank, seed=number), files[-1])
    return files


def _in_turn(extent: Extent, files: list[Path]) -> Iterator[Visit]:
    for arm in extent.arms:
        print(f"{arm.name} ...", file=sys.stderr)
        yield _visit(arm, extent, files)
        free_memory()


def _visit(arm: Arm, extent: Extent, files: list[Path]) -> Visit:
    here = device()
    if here.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    held = WeightPlacement("bf16" if here.type == "cuda" else "fp32", False, here)
    wearer = arm.dressed(random_pipeline(extent.sizes, random_transformer(extent.sizes, held)))
    with clock_readings() as clock:
        (ready,) = seconds_each(lambda _: _get_ready(arm, wearer, extent, files[0]), here, rounds=1)
        before = graphs_compiled()
        seconds = {
            what: seconds_each(task, here, rounds=extent.rounds) for what, task in _tasks(arm, wearer, extent, files)
        }
    graphs, error = graphs_compiled() - before, _error(wearer, extent)
    peak = torch.cuda.max_memory_allocated() if here.type == "cuda" else None
    return Visit(arm.name, ready, seconds, graphs, error, peak, median_mhz(clock))


Task = Callable[[int], object]


def _tasks(arm: Arm, wearer: LoraApplier, extent: Extent, files: list[Path]) -> Iterator[tuple[str, Task]]:
    """What is timed, in this order; a round's number says which LoRA, or how strong."""
    latent_side = extent.side // VAE_FACTOR
    latents = torch.randn(1, LATENT_CHANNELS, latent_side, latent_side).to(device(), precision())
    yield "picture", lambda _: _draw(wearer, extent, extent.steps)
    yield "text", lambda _: encode_prompt(wearer.pipeline, TEXT)
    yield "decoding", lambda _: _decode(wearer.pipeline, latents)
    if arm.wears:
        yield "another LoRA", lambda number: wearer.wear({files[(number + 1) % len(files)]: 1.0})
        yield "another scale", lambda number: wearer.wear({files[0]: 0.9 - 0.1 * number})
        yield "step after", lambda _: _draw(wearer, extent, 1)


def _get_ready(arm: Arm, wearer: LoraApplier, extent: Extent, file: Path) -> None:
    if arm.wears:
        wearer.wear({file: 1.0})
    _draw(wearer, extent, extent.warm_up_steps)


def _draw(wearer: LoraApplier, extent: Extent, steps: int) -> None:
    with wearer.drawing():
        generate_image(
            wearer.pipeline,
            _prompt(extent.sizes),
            width=extent.side,
            height=extent.side,
            steps=steps,
            guidance=GUIDANCE,
            seed=SEED,
        )


def _prompt(sizes: Sizes) -> Prompt:
    """The same for all, on the device."""
    prompt = random_prompt(sizes, torch.Generator().manual_seed(SEED), precision())
    return Prompt(prompt.tokens.to(device()), prompt.pooled.to(device()))


@torch.no_grad()
def _decode(pipeline: FluxPipeline, latents: Tensor) -> None:
    pipeline.vae.decode(latents, return_dict=False)


@torch.no_grad()
def _error(wearer: LoraApplier, extent: Extent) -> float:
    plain = _velocity(wearer.pipeline, extent)
    with wearer.drawing():
        drawn = _velocity(wearer.pipeline, extent).clone()
    return float((drawn - plain).norm() / plain.norm())


def _velocity(pipeline: FluxPipeline, extent: Extent) -> Tensor:
    """In the middle of the noise, at the size of the pictures."""
    generator, side = torch.Generator().manual_seed(SEED), extent.side // VAE_FACTOR
    noisy = torch.randn(1, LATENT_CHANNELS, side, side, generator=generator).to(device())
    prompt = Prompt.stack([_prompt(extent.sizes)])
    sigmas = torch.full((1,), 0.5, device=device())
    return predict_velocity(pipeline.transformer, noisy, sigmas=sigmas, prompt=prompt, guidance=GUIDANCE).float()


def as_markdown(visits: list[Visit]) -> str:
    """Medians of both visits."""
    timed = list(dict.fromkeys(what for visit in visits for what in visit.seconds))
    by_arm = {arm: [visit for visit in visits if visit.arm == arm] for arm in dict.fromkeys(v.arm for v in visits)}
    pictures = {arm: _median(found, "picture") for arm, found in by_arm.items()}
    titles = [
        "contender",
        *timed,
        f"times as fast as {EAGER.name}",
        "ready",
        "velocity off by",
        "graphs compiled late",
        "peak",
    ]
    rows = []
    for arm, found in by_arm.items():
        seconds = [f"{_median(found, what):.3f} s" if what in found[0].seconds else "" for what in timed]
        ready = f"{found[0].ready:.1f} s"
        error, peak = f"{found[0].error:.4f}", found[0].peak_allocated
        ratio = f"{pictures[EAGER.name] / pictures[arm]:.2f}"
        graphs = str(sum(visit.graphs for visit in found))
        rows.append([arm, *seconds, ratio, ready, error, graphs, f"{peak / GB:.1f} GB" if peak else ""])
    return table(titles, rows)


def _median(visits: list[Visit], what: str) -> float:
    return statistics.median(seconds for visit in visits for seconds in visit.seconds[what])
