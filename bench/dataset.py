"""From an archive to tensors, without the model: ours compared with a plain loop, in time and memory.

The plain loop is what a script would do: one thread and Pillow; each image is decoded completely, rotated, converted to
RGB and cropped to each of its training sizes. Ours also checks, hashes and inspects every image in that time.
Contenders run in turn, each in a process of its own. Tensors are made one by one, as for an encoder, and freed at once.
"""

import multiprocessing
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pi_heif import register_heif_opener
from PIL import Image, ImageOps
from torch import Tensor

from bench.machine import machine
from bench.photos import PhotoSet, write_archive
from bench.report import argument_parser, table, write_results
from lora.dataset.captions import PromptRule
from lora.dataset.inspection import Inspector
from lora.dataset.latents import crop_batches
from lora.dataset.pixels import PixelStore
from lora.dataset.reading import Archives, read_dataset
from lora.dataset.sizes import training_sizes
from lora.images.size import Size

RESOLUTIONS = (512, 768, 1024)
SETS = (
    PhotoSet("100 JPEG photos of 12 megapixels", "JPEG", 100, 4000, 3000),
    PhotoSet("100 HEIC photos of 12 megapixels", "HEIF", 100, 4000, 3000),
    PhotoSet("1,000 JPEG photos of 0.5 megapixels", "JPEG", 1000, 816, 612),
)
SMALL_SETS = (PhotoSet("6 small JPEG photos", "JPEG", 6, 400, 300),)
DISTINCT, ROUNDS = 6, 2
MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class Run:
    """The time and memory that one contender took for one archive."""

    seconds: float
    peak_mib: float  # above that of the idle process
    tensors: int


def main() -> None:
    """Measure all sets, write the results, print a table."""
    arguments = argument_parser("dataset", __doc__, small="a few small photos, to check that it runs").parse_args()
    rows = [
        _row(photos, rounds=1 if arguments.small else ROUNDS) for photos in (SMALL_SETS if arguments.small else SETS)
    ]
    about = machine("pillow", "pi-heif", "numpy", "torch")
    numbers = {"machine": about, "resolutions": RESOLUTIONS, "rows": rows}
    path = write_results(numbers, name="dataset", output=arguments.output)
    print(f"wrote {path}\n\n{as_markdown(rows)}")


def plain(archive: Path, _folder: Path) -> Iterator[Tensor]:
    """A plain loop, as in a script."""
    register_heif_opener()
    with zipfile.ZipFile(archive) as source:
        for name in source.namelist():
            with source.open(name) as file, Image.open(file) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
            for size in training_sizes(Size(*upright.size), resolutions=RESOLUTIONS):
                cropped = ImageOps.fit(upright, (size.width, size.height), method=Image.Resampling.LANCZOS)
                yield _tensor(np.asarray(cropped))


def ours(archive: Path, folder: Path) -> Iterator[Tensor]:
    """The code that a training uses."""
    inspector = Inspector(RESOLUTIONS, PixelStore(folder / "pixels"), crops=1)
    rule = PromptRule("TOK", "", "")
    images = read_dataset(Archives(archive, None), into=folder, inspector=inspector, rule=rule).images
    for batch in crop_batches(images, inspector):
        yield from map(_tensor, batch.pixels)


Contender = Callable[[Path, Path], Iterator[Tensor]]
CONTENDERS: dict[str, Contender] = {"plain": plain, "ours": ours}


def _tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(pixels).permute(2, 0, 1).float() / 127.5 - 1.0


def _measure(contender: Contender, archive: Path) -> Run:
    torch.set_num_threads(1)  # the plain loop is one thread; ours uses Pillow's
    torch.zeros(1)  # memory that torch allocates at its first use counts for no contender
    idle = _peak_bytes()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        tensors = sum(1 for _ in contender(archive, Path(folder) / "work"))
        seconds = time.perf_counter() - began
    return Run(round(seconds, 3), round((_peak_bytes() - idle) / MEBIBYTE, 1), tensors)


def _peak_bytes() -> int:
    """The peak memory of this process. `ru_maxrss` would include that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _row(photos: PhotoSet, *, rounds: int) -> dict[str, object]:
    """Run both contenders in turn, equally often."""
    print(f"{photos.name}: creating the archive ...", file=sys.stderr)
    runs: dict[str, list[Run]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "photos.zip"
        write_archive(photos, archive, distinct=DISTINCT)
        for _ in range(rounds):
            for name, done in runs.items():
                done.append(_run_in_process(name, archive))
                print(f"  {name}: {done[-1].seconds:.1f} s, {done[-1].peak_mib:.0f} MiB", file=sys.stderr)
    return {"set": asdict(photos), "runs": {name: [asdict(run) for run in done] for name, done in runs.items()}}


def _run_in_process(name: str, archive: Path) -> Run:
    """Measure a contender in a new process: the peak memory of this one would include what others needed."""
    forking = multiprocessing.get_context("forkserver")  # its server imports nothing, and so keeps no memory
    with ProcessPoolExecutor(1, mp_context=forking) as pool:
        return pool.submit(_measure, CONTENDERS[name], archive).result()


def as_markdown(rows: list[dict[str, object]]) -> str:
    """A table of medians, side by side."""
    lines = []
    for row in rows:
        runs = row["runs"]
        assert isinstance(runs, dict)
        seconds = {name: statistics.median(run["seconds"] for run in done) for name, done in runs.items()}
        peaks = {name: max(run["peak_mib"] for run in done) for name, done in runs.items()}
        ratio = seconds["plain"] / seconds["ours"]
        times = [f"{seconds['plain']:.1f} s", f"{seconds['ours']:.1f} s", f"{ratio:.1f}"]
        lines.append([row["set"]["name"], *times, f"{peaks['plain']:.0f} MiB", f"{peaks['ours']:.0f} MiB"])  # type: ignore[index]
    return table(["archive", "plain loop", "ours", "speedup", "peak memory, plain loop", "peak memory, ours"], lines)


if __name__ == "__main__":
    main()
