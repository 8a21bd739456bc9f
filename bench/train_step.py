"""How long a training step takes, and how much memory: for FLUX.1, ours compared with the loop of diffusers' script;
for FLUX.2 [klein], ours alone.

Random weights of the real shape are created on the device. All contenders have the same LoRA, optimizer, images and
texts, and the same noise in the first step, whose losses must agree. Contenders run one after the other in one process,
and then again in reverse. The script runs with and without recomputing its activations, and with and without its text
encoders in the loop, which is its default.
"""

import gc
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from bench.clocks import as_line, clock_readings, median_mhz
from bench.machine import machine
from bench.random_flux import BASES, TransformerSizes, random_dataset, tiny_sizes
from bench.report import argument_parser, table, write_results
from bench.step_arms import ARMS, BASELINE, STREAMED, Arm, TrainingSetup, set_up_training
from bench.step_loops import Inputs, Loop
from bench.step_proofs import Deviation, LossAndGradients, as_lines, compare, loss_and_gradients, reference_result
from bench.timing import seconds_each
from lora.base.device import device, free_memory, precision
from lora.engine.compilation import graphs_compiled
from lora.engine.out_of_memory import is_out_of_memory

DEV = "dev"  # of the bases, the one that the script is for
IMAGES = 16
WARM_UPS, MIN_ROUNDS, MAX_ROUNDS = 3, 4, 25
SECONDS = 2.5  # of the rounds of a measurement, about
# FLOP of a step of FLUX.1 with one image, without recomputed activations, by its side: performance.md 1.2, counted.
STEP_FLOP = {512: 45.5e12, 768: 92.2e12, 1024: 171.1e12}
FLOP_A_SECOND = 790e12  # of dense bf16 products on an H100 or H200 at their best (performance.md 1.2)
GB = 1e9
# The baseline; T5 in the loop; ours recomputing little, in int8 with blocks streamed, and in nf4 with modulation on the
# host.
SOME = (BASELINE, ARMS[1], ARMS[5], STREAMED, ARMS[-1])


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    sides: tuple[int, ...]  # pixels
    batch_size: int
    arms: tuple[Arm, ...]  # in the order in which they run
    warm_ups: int
    least_rounds: int
    most_rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of an arm at one size."""

    arm: str
    side: int
    first_loss: float
    first_seconds: float  # of the first step, including compiling
    warm_up_seconds: list[float]
    seconds: list[float]  # of each step
    graphs: int  # compiled during these
    peak_allocated: int | None  # bytes; None without a GPU
    peak_reserved: int | None
    sm_mhz: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """An arm that ran out of memory."""

    arm: str
    side: int | None  # None: not even for its weights
    why: str


ArmResult = Measurement | Refused | Deviation


def main() -> None:
    """Measure, write the results, print a table."""
    parser = argument_parser("train_step", __doc__, small="the tiny base's shape, one step each, to check that it runs")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024], help="in pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="images per step (default: %(default)s)")
    parser.add_argument("--base", choices=BASES, default=DEV, help="(default: %(default)s)")
    arguments = parser.parse_args()
    full = full_extent(arguments.sides, batch_size=arguments.batch, arms=(*ARMS, *reversed(ARMS)))
    small, base = small_extent(batch_size=arguments.batch), arguments.base
    extent, sizes = (small, tiny_sizes(base)) if arguments.small else (full, BASES[base])
    if not sizes.has_script:
        extent = replace(extent, arms=tuple(arm for arm in extent.arms if arm.is_ours))
    results = list(_in_turn(sizes, extent))
    deviations = [each for each in results if isinstance(each, Deviation)]
    numbers = {
        "machine": machine("torch", "diffusers", "peft", "transformers", "accelerate", "bitsandbytes"),
        "extent": asdict(extent),
        "visits": [asdict(each) for each in results if isinstance(each, Measurement)],
        "refused": [asdict(each) for each in results if isinstance(each, Refused)],
        "nearness": [asdict(each) for each in deviations],
    }
    path = write_results(numbers, name=f"train_step-{base}-batch-{extent.batch_size}", output=arguments.output)
    measurements = [each for each in results if isinstance(each, Measurement)]
    print(f"wrote {path}\n{as_line([each.sm_mhz for each in measurements])}\n")
    without_reference = "not compared with fp32: not enough memory for a base in fp32"
    print(as_lines(deviations) if deviations else without_reference, end="\n\n")
    print(as_markdown(measurements, batch_size=extent.batch_size, step_flop=STEP_FLOP if base == DEV else {}))


def full_extent(sides: Iterable[int], *, batch_size: int, arms: tuple[Arm, ...]) -> Extent:
    """Enough steps for a figure."""
    return Extent(tuple(sides), batch_size, arms, WARM_UPS, MIN_ROUNDS, MAX_ROUNDS, SECONDS)


def small_extent(*, batch_size: int) -> Extent:
    """One step of a tiny size, for a CPU."""
    return Extent((64,), batch_size, SOME, warm_ups=1, least_rounds=1, most_rounds=1, seconds=0.0)


def _in_turn(sizes: TransformerSizes, extent: Extent) -> Iterator[ArmResult]:
    gc.freeze()  # imported objects stay anyway, and would be scanned each time that memory is freed
    reference = reference_result(sizes, inputs_of(sizes, extent, extent.sides[0]))
    free_memory()
    for arm in extent.arms:
        print(f"{arm.name} ...", file=sys.stderr)
        yield from measure(arm, sizes, extent, reference)
        free_memory()
    gc.unfreeze()


def measure(arm: Arm, sizes: TransformerSizes, extent: Extent, reference: LossAndGradients | None) -> list[ArmResult]:
    """Measure an arm at all sizes, with its own model; compare our arms with the reference, too, at the first size."""
    try:
        setup = set_up_training(arm, sizes)
    except RuntimeError as error:
        return [_refused(arm, None, error)]
    results: list[ArmResult] = []
    for side in extent.sides:
        try:
            results.append(measure_size(arm, setup, sizes, side, extent))
        except RuntimeError as error:
            results.append(_refused(arm, side, error))
    if arm.is_ours and reference is not None and isinstance(results[0], Measurement):
        found = loss_and_gradients(setup.model, inputs_of(sizes, extent, extent.sides[0]))
        results.append(compare(arm, found, reference))
    return results


def inputs_of(sizes: TransformerSizes, extent: Extent, side: int) -> Inputs:
    """The images of one size, the same for all arms."""
    dataset = random_dataset(sizes, side=side, count=IMAGES, dtype=precision())
    return Inputs(dataset, extent.batch_size, sizes.family.latents.patch)


def _refused(arm: Arm, side: int | None, error: RuntimeError) -> Refused:
    if not is_out_of_memory(error):
        raise error
    return Refused(arm.name, side, "out of memory")


def measure_size(arm: Arm, setup: TrainingSetup, sizes: TransformerSizes, side: int, extent: Extent) -> Measurement:
    """Measure an arm at one size. Raises RuntimeError if memory runs out."""
    inputs, here = inputs_of(sizes, extent, side), device()
    if here.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    loss = setup.begin(inputs)  # waits for the device
    first_seconds = time.perf_counter() - began
    step = partial(_step, setup.loop)
    with clock_readings() as clock:
        warm_ups = seconds_each(step, here, rounds=extent.warm_ups)
        rounds = min(max(int(extent.seconds / warm_ups[-1]), extent.least_rounds), extent.most_rounds)
        before = graphs_compiled()
        seconds = seconds_each(step, here, rounds=rounds)
    graphs = graphs_compiled() - before
    allocated = torch.cuda.max_memory_allocated() if here.type == "cuda" else None
    reserved = torch.cuda.max_memory_reserved() if here.type == "cuda" else None
    measured = (loss, first_seconds, warm_ups, seconds, graphs, allocated, reserved, median_mhz(clock))
    return Measurement(arm.name, side, *measured)


def _step(loop: Loop, _number: int) -> None:
    loop.step()


TITLES = ("px", "contender", "s/step", "10 to 90 %", "speedup over", "times the lower bound", "peak", "first loss")


def as_markdown(measurements: list[Measurement], *, batch_size: int, step_flop: Mapping[int, float] = STEP_FLOP) -> str:
    """A table of medians over both runs of each arm, by size; arms that ran out of memory are missing. `step_flop` is
    the FLOP of a step, by size."""
    sides = dict.fromkeys(each.side for each in measurements)

    def floor(side: int) -> float:
        return step_flop.get(side, 0.0) * batch_size / FLOP_A_SECOND

    titles = [title if title != "speedup over" else f"speedup over {BASELINE.name}" for title in TITLES]
    return table(titles, [row for side in sides for row in _rows(measurements, side, floor(side))])


def _rows(measurements: list[Measurement], side: int, floor: float) -> Iterator[list[str]]:
    at_side = [each for each in measurements if each.side == side]
    by_arm = {arm.name: [each for each in at_side if each.arm == arm.name] for arm in ARMS}
    medians = {name: statistics.median(_seconds(found)) for name, found in by_arm.items() if found}
    baseline_loss = by_arm[BASELINE.name][0].first_loss if by_arm[BASELINE.name] else None
    baseline = medians.get(BASELINE.name)
    for name, median in medians.items():
        ordered = sorted(_seconds(by_arm[name]))
        spread = f"{ordered[len(ordered) // 10]:.3f} to {ordered[9 * len(ordered) // 10]:.3f}"
        peaks = [each.peak_allocated for each in by_arm[name] if each.peak_allocated is not None]
        yield [
            *(str(side), name, f"{median:.3f}", spread),
            f"{baseline / median:.2f}" if baseline else "",
            f"{median / floor:.2f}" if floor else "",
            f"{max(peaks) / GB:.1f} GB" if peaks else "",
            _compare_losses(by_arm[name][0].first_loss, baseline_loss),
        ]


def _compare_losses(loss: float, baseline: float | None) -> str:
    return f"{loss:.5f}" + (f" ({100 * (loss / baseline - 1):+.3f} %)" if baseline else "")


def _seconds(measurements: list[Measurement]) -> list[float]:
    return [seconds for each in measurements for seconds in each.seconds]


if __name__ == "__main__":
    main()
