"""The GPU's clock and power during a measurement."""

import shutil
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

MILLISECONDS_BETWEEN = 500
FIELDS = (
    "driver_version",
    "memory.total",
    "clocks.sm",
    "clocks.max.sm",
    "power.draw",
    "power.limit",
    "temperature.gpu",
)
MAX_APART = 0.02  # the largest difference of clocks at which contenders are comparable


@dataclass(frozen=True, slots=True)
class Reading:
    """Clock and power at one moment."""

    sm_mhz: float  # clock of the streaming multiprocessors
    watts: float


@contextmanager
def clock_readings() -> Iterator[list[Reading]]:
    """A list that is filled with the readings during the `with` block when it ends; empty without nvidia-smi."""
    readings: list[Reading] = []
    process = _start_nvidia_smi()
    try:
        yield readings
    finally:
        if process is not None:
            process.terminate()
            readings.extend(readings_in(process.communicate()[0]))


def gpu_state() -> dict[str, str]:
    """What nvidia-smi says of the GPU now, in its words, by the names of its fields; empty without it."""
    command = _nvidia_smi()
    if command is None:
        return {}
    answer = subprocess.run(
        [*command, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader"],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(zip(FIELDS, map(str.strip, answer.stdout.split(",")), strict=True))


def median_mhz(readings: list[Reading]) -> float | None:
    """The median clock; None without readings."""
    return statistics.median(reading.sm_mhz for reading in readings) if readings else None


def as_line(clocks: list[float | None]) -> str:
    """The range of clocks in one line, with a warning if they are too far apart for a comparison."""
    known = [clock for clock in clocks if clock is not None]
    if not known:
        return "SM clock: unknown"
    least, most = min(known), max(known)
    warning = ": more than 2 % apart, so run it again" if most > least * (1 + MAX_APART) else ""
    return f"SM clock: {least:.0f} to {most:.0f} MHz{warning}"


def readings_in(text: str) -> list[Reading]:
    """Parse lines of clock and power; unknown or incomplete values are skipped."""
    readings = []
    for line in text.splitlines():
        try:
            mhz, watts = map(float, line.split(","))
        except ValueError:
            continue
        readings.append(Reading(mhz, watts))
    return readings


def _start_nvidia_smi() -> subprocess.Popen[str] | None:
    command = _nvidia_smi()
    if command is None:
        return None
    fields, form = "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits"
    every = f"--loop-ms={MILLISECONDS_BETWEEN}"
    return subprocess.Popen([*command, fields, form, every], stdout=subprocess.PIPE, text=True)


def _nvidia_smi() -> list[str] | None:
    """The command that asks about this process's GPU; None without it."""
    command = shutil.which("nvidia-smi")
    if command is None or not torch.cuda.is_available():
        return None
    return [command, f"--id=GPU-{torch.cuda.get_device_properties().uuid}"]
