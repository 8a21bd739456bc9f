"""The arguments and the output of the processes that bench/cold_start.py starts."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

PROMPT, STEPS = "a photo of TOK", 4  # few steps, whose speed is measured by another benchmark


@dataclass(frozen=True, slots=True)
class Arguments:
    """The base to generate with, and the size of the image."""

    base: Path
    side: int  # pixels


@dataclass(frozen=True, slots=True)
class Timestamps:
    """Times of the system's clock."""

    imported: float
    ready: float
    first_image: float


def parse_arguments() -> Arguments:
    """Read the arguments from the command line."""
    base, side = sys.argv[1:]
    return Arguments(Path(base), int(side))


def print_timestamps(timestamps: Timestamps) -> None:
    """Print the timestamps, which must be the last line of the output."""
    print(json.dumps(asdict(timestamps)))


def parse_timestamps(printed: str) -> Timestamps:
    """Read the timestamps from the output of such a process."""
    return Timestamps(**json.loads(printed.splitlines()[-1]))
