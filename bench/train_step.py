"""How long a training step of FLUX.1 takes, and how much memory: ours against the loop of diffusers' script.

Random weights of the real shape, made on the device; the same LoRA, optimizer, pictures and texts for all, and the same
noise in the first step, whose losses have to agree. Contenders come one after the other in one process, and then once
more in reverse. The script is measured with and without recomputing its activations, and with its text encoders in the
loop, as it is shipped, and without.
"""

import gc
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial

import torch

from bench.clocks import as_line, clock_readings, median_mhz
from bench.machine import machine
from bench.random_flux import DEV, Sizes, random_dataset, tiny_sizes
from bench.report import argument_parser, keep, table
from bench.step_arms import ARMS, BASELINE, STREAMED, Arm, TrainingSetup, set_up_training
from bench.step_loops import Inputs, Loop
from bench.step_proofs import Answer, Deviation, answer_of, as_lines, nearness, plain_answer
from bench.timing import graphs_compiled, seconds_each
from lora.flux.loading import device, free_memory, precision
from lora.training.memory.out_of_memory import is_out_of_memory

PICTURES = 16
WARM_UPS, LEAST_ROUNDS, MOST_ROUNDS = 3, 4, 25
SECONDS = 2.5  # of a visit's rounds, about
# FLOP of a step of one picture whose activations are kept, by its side: performance.md 1.2, counted.
STEP_FLOP = {512: 45.5e12, 768: 92.2e12, 1024: 171.1e12}
FLOP_A_SECOND = 790e12  # of dense bf16 products on an H100 or H200 at their best (performance.md 1.2)
GB = 1e9
# With T5 in the loop; ours recomputing little, in int8 with blocks streamed, and in nf4 with modulation on the host.
SOME = (BASELINE, ARMS[1], ARMS[5], STREAMED, ARMS[-1])


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    sides: tuple[int, ...]  # pixels
    batch_size: int
    arms: tuple[Arm, ...]  # in the order in which they are visited
    warm_ups: int
    least_rounds: int
    most_rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Visit:
    """One arm at one size, once."""

    arm: str
    side: int
    first_loss: float
    warm_up_seconds: list[float]  # compiling among them
    seconds: list[float]  # of each step
    graphs: int  # compiled during these
    peak_allocated: int | None  # bytes; None without a GPU
    peak_reserved: int | None
    sm_mhz: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """An arm that had no room."""

    arm: str
    side: int | None  # None: not even for its weights
    why: str


Outcome = Visit | Refused | Deviation


def main() -> None:
    """Measure, keep the numbers, print a table."""
    parser = argument_parser("train_step", __doc__, small="the tiny base's shape, once each, to see that it runs")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024], help="pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="pictures a step (default: %(default)s)")
    arguments = parser.parse_args()
    full = Extent(
        tuple(arguments.sides), arguments.batch, (*ARMS, *reversed(ARMS)), WARM_UPS, LEAST_ROUNDS, MOST_ROUNDS, SECONDS
    )
    small = Extent((64,), arguments.batch, SOME, warm_ups=1, least_rounds=1, most_rounds=1, seconds=0.0)
    extent, sizes = (small, tiny_sizes()) if arguments.small else (full, DEV)
    outcomes = list(_in_turn(sizes, extent))
    near = [each for each in outcomes if isinstance(each, Deviation)]
    numbers = {
        "machine": machine("torch", "diffusers", "peft", "transformers", "accelerate", "bitsandbytes"),
        "extent": asdict(extent),
        "visits": [asdict(each) for each in outcomes if isinstance(each, Visit)],
        "refused": [asdict(each) for each in outcomes if isinstance(each, Refused)],
        "nearness": [asdict(each) for each in near],
    }
    path = keep(numbers, name=f"train_step-batch-{extent.batch_size}", output=arguments.output)
    visits = [each for each in outcomes if isinstance(each, Visit)]
    print(f"wrote {path}\n{as_line([each.sm_mhz for each in visits])}\n")
    print(
        as_lines(near) if near else "nothing is compared with fp32: memory does not suffice for such a base", end="\n\n"
    )
    print(as_markdown(visits, batch_size=extent.batch_size))


def _in_turn(sizes: Sizes, extent: Extent) -> Iterator[Outcome]:
    gc.freeze()  # what was imported stays anyway, and would be looked through each time that memory is freed
    plain = plain_answer(sizes, _inputs(sizes, extent, extent.sides[0]))
    free_memory()
    for arm in extent.arms:
        print(f"{arm.name} ...", file=sys.stderr)
        yield from visited(arm, sizes, extent, plain)
        free_memory()
    gc.unfreeze()


def visited(arm: Arm, sizes: Sizes, extent: Extent, plain: Answer | None) -> list[Outcome]:
    """An arm at all sizes, with a model of its own; ours are then compared with the plain answer at the first."""
    try:
        trained = set_up_training(arm, sizes)
    except RuntimeError as error:
        return [_refused(arm, None, error)]
    outcomes: list[Outcome] = []
    for side in extent.sides:
        try:
            outcomes.append(_visit(arm, trained, sizes, side, extent))
        except RuntimeError as error:
            outcomes.append(_refused(arm, side, error))
    if arm.is_ours and plain is not None and isinstance(outcomes[0], Visit):
        found = answer_of(trained, _inputs(sizes, extent, extent.sides[0]))
        outcomes.append(nearness(arm, found, plain))
    return outcomes


def _inputs(sizes: Sizes, extent: Extent, side: int) -> Inputs:
    return Inputs(random_dataset(sizes, side=side, count=PICTURES, dtype=precision()), extent.batch_size)


def _refused(arm: Arm, side: int | None, error: RuntimeError) -> Refused:
    if not is_out_of_memory(error):
        raise error
    return Refused(arm.name, side, "out of memory")


def _visit(arm: Arm, trained: TrainingSetup, sizes: Sizes, side: int, extent: Extent) -> Visit:
    inputs, here = _inputs(sizes, extent, side), device()
    if here.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    loss = trained.begin(inputs)
    step = partial(_step, trained.loop)
    with clock_readings() as clock:
        warm_ups = seconds_each(step, here, rounds=extent.warm_ups)
        rounds = min(max(int(extent.seconds / warm_ups[-1]), extent.least_rounds), extent.most_rounds)
        before = graphs_compiled()
        seconds = seconds_each(step, here, rounds=rounds)
    graphs = graphs_compiled() - before
    allocated = torch.cuda.max_memory_allocated() if here.type == "cuda" else None
    reserved = torch.cuda.max_memory_reserved() if here.type == "cuda" else None
    return Visit(arm.name, side, loss, warm_ups, seconds, graphs, allocated, reserved, median_mhz(clock))


def _step(loop: Loop, _number: int) -> None:
    loop.step()


TITLES = ("px", "contender", "s a step", "10 to 90 %", "times as fast as", "times the floor", "peak", "first loss")


def as_markdown(visits: list[Visit], *, batch_size: int) -> str:
    """Medians of both visits, size by size; an arm that had no room is missing."""
    sides = dict.fromkeys(visit.side for visit in visits)
    titles = [title if title != "times as fast as" else f"times as fast as {BASELINE.name}" for title in TITLES]
    return table(titles, [row for side in sides for row in _rows(visits, side, batch_size)])


def _rows(visits: list[Visit], side: int, batch_size: int) -> Iterator[list[str]]:
    by_arm = {arm.name: [each for each in visits if (each.arm, each.side) == (arm.name, side)] for arm in ARMS}
    medians = {name: statistics.median(_seconds(found)) for name, found in by_arm.items() if found}
    reference = by_arm[BASELINE.name][0].first_loss if by_arm[BASELINE.name] else None
    floor = STEP_FLOP.get(side, 0.0) * batch_size / FLOP_A_SECOND
    baseline = medians.get(BASELINE.name)
    for name, median in medians.items():
        ordered = sorted(_seconds(by_arm[name]))
        spread = f"{ordered[len(ordered) // 10]:.3f} to {ordered[9 * len(ordered) // 10]:.3f}"
        peaks = [visit.peak_allocated for visit in by_arm[name] if visit.peak_allocated is not None]
        yield [
            *(str(side), name, f"{median:.3f}", spread),
            f"{baseline / median:.2f}" if baseline else "",
            f"{median / floor:.2f}" if floor else "",
            f"{max(peaks) / GB:.1f} GB" if peaks else "",
            _compared(by_arm[name][0].first_loss, reference),
        ]


def _compared(loss: float, reference: float | None) -> str:
    return f"{loss:.5f}" + (f" ({100 * (loss / reference - 1):+.3f} %)" if reference else "")


def _seconds(visits: list[Visit]) -> list[float]:
    return [seconds for visit in visits for seconds in visit.seconds]


if __name__ == "__main__":
    main()
