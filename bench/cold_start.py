"""From the start of a process to its first picture: our predictor against diffusers' `from_pretrained`.

Random weights of FLUX.1's real shape are written to the disk, 34 GB in diffusers layout, and deleted afterwards; TMPDIR
says where. Each contender runs in processes of its own: first all from the disk, after the system was asked to forget
the files; then, in reverse, from the memory that it keeps files in.
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
from bench.marks import STEPS, told
from bench.random_flux import DEV, TINY, random_pipeline, random_transformer
from bench.report import argument_parser, keep, table
from lora.flux.frozen_transformer import WeightPlacement
from lora.flux.loading import device, free_memory
from weights.base_files import weight_files
from weights.bases import SETTING
from weights.safety import OFF
from weights.safety import SETTING as SAFETY

SIDE, SMALL_SIDE = 1024, 64  # pixels
GB = 1e9
NEEDED_BYTES = 40 * GB  # of the disk
FROM_DISK, FROM_MEMORY = "from disk", "from memory"


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to start."""

    module: str
    environment: Mapping[str, str]


STOCK = "diffusers"
CONTENDERS = {
    STOCK: Contender("bench.start_diffusers", {}),
    "diffusers, loading in parallel": Contender("bench.start_diffusers", {"HF_ENABLE_PARALLEL_LOADING": "1"}),
    "ours": Contender("bench.start_ours", {SAFETY: OFF}),
}


@dataclass(frozen=True, slots=True)
class Visit:
    """A start that is to be."""

    contender: str
    files: str  # where they come from


FULL = (
    *(Visit(name, FROM_DISK) for name in CONTENDERS),
    *(Visit(name, FROM_MEMORY) for name in reversed(CONTENDERS)),
)
SMALL = tuple(Visit(name, FROM_MEMORY) for name in (STOCK, "ours"))


@dataclass(frozen=True, slots=True)
class Start:
    """One that was: seconds from before the process was there."""

    contender: str
    files: str
    imported: float
    ready: float
    first_picture: float


def main() -> None:
    """Measure, keep the numbers, print a table."""
    parser = argument_parser("cold_start", __doc__, small="the embedded base, from memory alone, to see that it runs")
    arguments = parser.parse_args()
    visits, write, side = (SMALL, _copy_tiny, SMALL_SIDE) if arguments.small else (FULL, _write_random, SIDE)
    with tempfile.TemporaryDirectory(prefix="flux-lora-bench-") as folder:
        base = Path(folder) / "base"
        write(base)
        size = sum(file.stat().st_size for file in weight_files(base))
        starts = [_started(visit, base, side) for visit in visits]
    about = machine("torch", "diffusers", "transformers", "safetensors")
    settings = {"bytes": size, "side": side, "steps": STEPS}
    numbers = {"machine": about, "settings": settings, "starts": [asdict(start) for start in starts]}
    path = keep(numbers, name="cold_start", output=arguments.output)
    print(f"wrote {path}\n\n{as_markdown(starts)}")


def _copy_tiny(base: Path) -> None:
    shutil.copytree(TINY, base)


def _write_random(base: Path) -> None:
    free = shutil.disk_usage(base.parent).free
    if free < NEEDED_BYTES:
        expected = f"expected {NEEDED_BYTES / GB:.0f} GB in the folder that TMPDIR names"
        raise SystemExit(f"{base.parent} has {free / GB:.1f} GB of free disk: {expected}")
    print("writing weights ...", file=sys.stderr)
    random_pipeline(DEV, random_transformer(DEV, WeightPlacement("bf16", False, device()))).save_pretrained(base)
    free_memory()


def _started(visit: Visit, base: Path, side: int) -> Start:
    """In a process of its own."""
    print(f"{visit.contender}, {visit.files} ...", file=sys.stderr)
    if visit.files == FROM_DISK:
        _forget(base)
    contender = CONTENDERS[visit.contender]
    command = [sys.executable, "-m", contender.module, str(base), str(side)]
    environment = {**os.environ, **contender.environment, SETTING: str(base)}
    began = time.time()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    marks = told(done.stdout)
    imported, ready, picture = (mark - began for mark in (marks.imported, marks.ready, marks.first_picture))
    return Start(visit.contender, visit.files, imported, ready, picture)


def _forget(base: Path) -> None:
    """Ask the system to keep nothing of these files in its memory. It may not listen."""
    os.sync()  # what is not on the disk yet cannot be forgotten
    for path in weight_files(base):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def as_markdown(starts: list[Start]) -> str:
    """Each start."""
    titles = ["contender", "files", "imported", "ready", "first picture", f"times as fast to it as {STOCK}"]
    baseline = {start.files: start.first_picture for start in starts if start.contender == STOCK}
    rows = []
    for start in starts:
        seconds = [f"{each:.1f} s" for each in (start.imported, start.ready, start.first_picture)]
        rows.append([start.contender, start.files, *seconds, f"{baseline[start.files] / start.first_picture:.2f}"])
    return table(titles, rows)


if __name__ == "__main__":
    main()
