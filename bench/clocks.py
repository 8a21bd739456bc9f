"""How fast the GPU's clock ran, and what power it drew, while something was measured."""

import shutil
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

MILLISECONDS_BETWEEN = 500
MOST_APART = 0.02  # clocks of two contenders; beyond that they are not compared


@dataclass(frozen=True, slots=True)
class Reading:
    """At one moment."""

    sm_mhz: float  # clock of the streaming multiprocessors
    watts: float


@contextmanager
def clock_readings() -> Iterator[list[Reading]]:
    """A list that is filled, when the block ends, with readings of the time it took; none without nvidia-smi."""
    readings: list[Reading] = []
    process = _started()
    try:
        yield readings
    finally:
        if process is not None:
            process.terminate()
            readings.extend(readings_in(process.communicate()[0]))


def median_mhz(readings: list[Reading]) -> float | None:
    """None where there are no readings."""
    return statistics.median(reading.sm_mhz for reading in readings) if readings else None


def as_line(clocks: list[float | None]) -> str:
    """The clocks of all visits in one line, with a warning where they are too far apart to be compared."""
    known = [clock for clock in clocks if clock is not None]
    if not known:
        return "SM clock: not known"
    least, most = min(known), max(known)
    warning = ": more than 2 % apart, so run it again" if most > least * (1 + MOST_APART) else ""
    return f"SM clock: {least:.0f} to {most:.0f} MHz{warning}"


def readings_in(text: str) -> list[Reading]:
    """Lines of clock and power; what is not known, or was cut short, is left out."""
    readings = []
    for line in text.splitlines():
        try:
            mhz, watts = map(float, line.split(","))
        except ValueError:
            continue
        readings.append(Reading(mhz, watts))
    return readings


def _started() -> subprocess.Popen[str] | None:
    command = shutil.which("nvidia-smi")
    if command is None or not torch.cuda.is_available():
        return None
    fields, form = "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits"
    which = f"--id=GPU-{torch.cuda.get_device_properties().uuid}"
    every = f"--loop-ms={MILLISECONDS_BETWEEN}"
    return subprocess.Popen([command, which, fields, form, every], stdout=subprocess.PIPE, text=True)
