"""From the start of a process to its first image: our predictor compared with diffusers' `from_pretrained`.

Random weights of the base's real shape in diffusers layout, 34 GB of FLUX.1-dev, are written to the disk, in the folder
that TMPDIR names, and deleted afterwards. Each contender runs in processes of its own: first all of them from the disk,
after the system was asked to drop the files from its cache; then, in reverse, from the system's file cache.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.machine import machine
from bench.marks import STEPS, parse_timestamps
from bench.random_flux import BASES, DEFAULT_BASE, Sizes, embedded_base, random_pipeline, random_transformer
from bench.report import argument_parser, table, write_results
from lora.base.device import device, free_memory
from lora.families.frozen_transformer import WeightPlacement
from weights.base_files import weight_files
from weights.bases import SETTING
from weights.checker import OFF
from weights.checker import SETTING as SAFETY

SIDE, SMALL_SIDE = 1024, 64  # pixels
GB = 1e9
SPARE_BYTES = 6 * GB  # of the disk, beside the weights in bf16
FROM_DISK, FROM_MEMORY = "from disk", "from memory"


@dataclass(frozen=True, slots=True)
class Contender:
    """A contender."""

    module: str
    environment: Mapping[str, str]


STOCK = "diffusers"
CONTENDERS = {
    STOCK: Contender("bench.start_diffusers", {}),
    "diffusers, loading in parallel": Contender("bench.start_diffusers", {"HF_ENABLE_PARALLEL_LOADING": "1"}),
    "ours": Contender("bench.start_ours", {SAFETY: OFF}),
}


@dataclass(frozen=True, slots=True)
class PlannedStart:
    """A start to measure."""

    contender: str
    files: str  # where they are read from


FULL = (
    *(PlannedStart(name, FROM_DISK) for name in CONTENDERS),
    *(PlannedStart(name, FROM_MEMORY) for name in reversed(CONTENDERS)),
)
SMALL = tuple(PlannedStart(name, FROM_MEMORY) for name in (STOCK, "ours"))


@dataclass(frozen=True, slots=True)
class ColdStart:
    """A measured start: seconds since before the process was created."""

    contender: str
    files: str
    imported: float
    ready: float
    first_image: float


def main() -> None:
    """Measure, write the results, print a table."""
    parser = argument_parser("cold_start", __doc__, small="only the embedded base, from memory, to check that it runs")
    parser.add_argument("--base", choices=BASES, default=DEFAULT_BASE, help="(default: %(default)s)")
    arguments = parser.parse_args()
    planned_starts, write, side = (SMALL, _copy_tiny, SMALL_SIDE) if arguments.small else (FULL, _write_random, SIDE)
    with tempfile.TemporaryDirectory(prefix="flux-lora-bench-") as folder:
        base = Path(folder) / "base"
        write(BASES[arguments.base], base)
        size = sum(file.stat().st_size for file in weight_files(base))
        starts = [_measure(planned, base, side) for planned in planned_starts]
    about = machine("torch", "diffusers", "transformers", "safetensors")
    settings = {"bytes": size, "side": side, "steps": STEPS}
    numbers = {"machine": about, "settings": settings, "starts": [asdict(start) for start in starts]}
    path = write_results(numbers, name=f"cold_start-{arguments.base}", output=arguments.output)
    print(f"wrote {path}\n\n{as_markdown(starts)}")


def _copy_tiny(sizes: Sizes, base: Path) -> None:
    shutil.copytree(embedded_base(sizes.family), base)


def _write_random(sizes: Sizes, base: Path) -> None:
    free, needed = shutil.disk_usage(base.parent).free, 2 * sizes.parameters + SPARE_BYTES
    if free < needed:
        expected = f"expected {needed / GB:.0f} GB; set TMPDIR to a folder on another disk"
        raise SystemExit(f"{base.parent} has {free / GB:.1f} GB of free disk space: {expected}")
    print("writing weights ...", file=sys.stderr)
    random_pipeline(sizes, random_transformer(sizes, WeightPlacement("bf16", False, device()))).save_pretrained(base)
    free_memory()


def _measure(planned: PlannedStart, base: Path, side: int) -> ColdStart:
    """Measure a start, in a process of its own."""
    print(f"{planned.contender}, {planned.files} ...", file=sys.stderr)
    if planned.files == FROM_DISK:
        _drop_from_cache(base)
    contender = CONTENDERS[planned.contender]
    command = [sys.executable, "-m", contender.module, str(base), str(side)]
    environment = {**os.environ, **contender.environment, SETTING: str(base)}
    began = time.time()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    times = parse_timestamps(done.stdout)
    imported, ready, first_image = (each - began for each in (times.imported, times.ready, times.first_image))
    return ColdStart(planned.contender, planned.files, imported, ready, first_image)


def _drop_from_cache(base: Path) -> None:
    """Ask the system to drop these files from its cache. It may ignore the request."""
    os.sync()  # data that is not on the disk yet cannot be dropped
    for path in weight_files(base):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def as_markdown(starts: list[ColdStart]) -> str:
    """A table of all starts."""
    titles = ["contender", "files", "imported", "ready", "first image", f"speedup over {STOCK}"]
    baseline = {start.files: start.first_image for start in starts if start.contender == STOCK}
    rows = []
    for start in starts:
        seconds = [f"{each:.1f} s" for each in (start.imported, start.ready, start.first_image)]
        rows.append([start.contender, start.files, *seconds, f"{baseline[start.files] / start.first_image:.2f}"])
    return table(titles, rows)


if __name__ == "__main__":
    main()
