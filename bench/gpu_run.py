"""All that one short run on a GPU machine should tell, in the order in which the answers matter, under a budget.

Whether the engine is right on CUDA, how fast it is compared with the usual loop and with diffusers, where the time
goes, and whether memory is as predicted. Random weights of a base's real shape are created on the device. Every result
is written at once; a stage that fails is recorded, and one for which there is no time is skipped.
"""

import gc
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from torch.nn.attention import _cur_sdpa_kernel_backends

from bench import generation, rates, train_step
from bench.clocks import clock_readings, gpu_state, median_mhz
from bench.compile_artifacts import load_artifacts, save_artifacts
from bench.gpu_images import image_stages
from bench.gpu_steps import StepStages
from bench.gpu_table import BASE, CLOCK, MACHINE, RATE, as_markdown
from bench.machine import machine
from bench.random_flux import BASES, DEFAULT_BASE
from bench.records import RecordFile, read_records
from bench.report import RESULTS
from bench.stages import Budget, Result, Stage, run_stages
from lora.base.device import device

BUDGET = 480.0  # seconds: a run may take nine minutes, and ends with saving what was compiled
LIBRARIES = ("torch", "triton", "diffusers", "peft", "transformers", "accelerate", "bitsandbytes")
ARTIFACTS = "artifacts"
CACHE = Path(".gpu/cache")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    rates: rates.Extent
    steps: train_step.Extent
    images: generation.Extent
    profiled_steps: int


def main() -> None:
    """Measure, printing the tables after each stage; or print the tables of an earlier run. Exits with one sentence if
    an argument is wrong."""
    arguments = _parser().parse_args()
    try:
        if arguments.table:
            print(as_markdown(read_records(arguments.table)))
        else:
            _measure(arguments)
    except ValueError as error:
        sys.exit(str(error))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="script/gpu-run", description=__doc__)
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything (default: %(default).0f)")
    parser.add_argument("--small", action="store_true", help="all of it in tiny shapes, to check that it runs")
    parser.add_argument("--base", choices=BASES, default=DEFAULT_BASE, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help="new file for the results (default: in bench/results)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="what an earlier run compiled (default: %(default)s)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="only print the tables of this file of results")
    parser.add_argument("--since", type=float, help="start of the budget in seconds since 1970 (default: now)")
    return parser


def _measure(arguments: Namespace) -> None:
    if arguments.budget <= 0:
        raise ValueError(f"budget is {arguments.budget:g}: expected a number of seconds above 0")
    budget = Budget(arguments.budget, since=arguments.since or time.time())
    file = RecordFile(arguments.output or RESULTS / f"gpu-run-{datetime.now(UTC):%Y-%m-%d-%H%M%S}.jsonl")
    base = arguments.base
    extent = small(base) if arguments.small else full(base)
    with tempfile.TemporaryDirectory() as folder:
        loras = generation.write_loras(extent.images.sizes, Path(folder))
        gc.freeze()  # imported objects stay anyway, and would be scanned each time that memory is freed
        stages = all_stages(extent, loras, base=base, cache=arguments.cache, beside=file.path)
        run_stages(stages, file, budget, after_each=lambda: print(as_markdown(file.read()), end="\n\n", flush=True))
        gc.unfreeze()
    print(f"wrote {file.path}")


def full(base: str) -> Extent:
    """The sizes of one of BASES."""
    steps = train_step.full_extent((512, 1024), batch_size=1, arms=())
    return Extent(rates.reduced(base), steps, replace(generation.full(base), arms=()), profiled_steps=20)


def small(base: str) -> Extent:
    """Tiny sizes, for a CPU."""
    return Extent(rates.SMALL, train_step.small_extent(batch_size=1), generation.small(base), profiled_steps=1)


def all_stages(extent: Extent, loras: list[Path], *, base: str, cache: Path, beside: Path) -> list[Stage]:
    """All stages, in the order in which their answers matter. The compiled code of an earlier run is read from the
    folder `cache`, that of this run is written beside a file."""
    steps = StepStages(extent.images.sizes, extent.steps, profiled_steps=extent.profiled_steps)
    return [
        Stage("machine", "machine", 2, lambda: _describe_machine(base), is_essential=True),
        Stage("loading compiled code", "loading", 5, lambda: _load(cache), is_essential=True),
        Stage("rates", "rates", 30, lambda: _measure_rates(extent.rates)),
        *steps.stages(),
        *image_stages(extent.images, loras, before=steps.release),
        Stage("saving compiled code", "saving", 10, lambda: _save(beside), is_essential=True),
    ]


def _describe_machine(base: str) -> Iterator[Result]:
    attention = [backend.name for backend in _cur_sdpa_kernel_backends(with_priority=True)]
    yield Result(
        MACHINE, {BASE: base, **machine(*LIBRARIES), "attention backends, first to last": attention, **gpu_state()}
    )


def _load(folder: Path) -> Iterator[Result]:
    yield Result(ARTIFACTS, {"loaded": load_artifacts(folder)})


def _measure_rates(extent: rates.Extent) -> Iterator[Result]:
    with clock_readings() as clock:
        for rate in rates.measure(extent, device()):
            yield Result(RATE, asdict(rate))
    watts = [reading.watts for reading in clock]
    yield Result(CLOCK, {"sm_mhz": median_mhz(clock), "most_watts": max(watts, default=None)})


def _save(beside: Path) -> Iterator[Result]:
    files = save_artifacts(beside)
    yield Result(ARTIFACTS, {"saved": {file.name: file.stat().st_size for file in files}})


if __name__ == "__main__":
    main()
