"""What a worker process prints for its parent process beside text: metrics, and what trackers record."""

import json
from collections.abc import Mapping
from pathlib import Path

from lora.training.progress import Log, print_line

METRIC, NUMBERS, IMAGE = "\x1emetric", "\x1enumbers", "\x1eimage"  # prefixes of lines that are not text


def print_metric(name: str, value: float) -> None:
    """Record a metric from a process whose output the parent process reads."""
    print_line(f"{METRIC} {name} {value}")


class PrintedRecorder:
    """Hands what trackers record to the parent process, which has the trackers."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Print numbers of a step."""
        print_line(f"{NUMBERS} {json.dumps([step, dict(values)])}")

    def image(self, step: int, name: str, path: Path) -> None:
        """Print an image of a step."""
        print_line(f"{IMAGE} {json.dumps([step, name, str(path)])}")


def relay_line(line: str, log: Log) -> None:
    """Write the line, or record what a worker process printed for its parent process."""
    kind, _, rest = line.partition(" ")
    if kind == METRIC:
        name, value = rest.split()
        log.record(name, float(value))
    elif kind == NUMBERS:
        step, values = json.loads(rest)
        log.numbers(step, values)
    elif kind == IMAGE:
        step, name, path = json.loads(rest)
        log.image(step, name, Path(path))
    else:
        log.write(line)
