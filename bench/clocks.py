"""The GPU's clock and power during a measurement."""

import shutil
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

MILLISECONDS_BETWEEN = 500
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
    command = shutil.which("nvidia-smi")
    if command is None or not torch.cuda.is_available():
        return None
    fields, form = "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits"
    which = f"--id=GPU-{torch.cuda.get_device_properties().uuid}"
    every = f"--loop-ms={MILLISECONDS_BETWEEN}"
    return subprocess.Popen([command, which, fields, form, every], stdout=subprocess.PIPE, text=True)
