"""What a process that was started by bench/cold_start.py is asked, and tells of itself."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

PROMPT, STEPS = "a photo of TOK", 4  # few steps: how fast they are is another benchmark's


@dataclass(frozen=True, slots=True)
class Asked:
    """What to draw with, and how large."""

    base: Path
    side: int  # pixels


@dataclass(frozen=True, slots=True)
class Marks:
    """When something had happened, by the system's clock."""

    imported: float
    ready: float
    first_picture: float


def asked() -> Asked:
    """By the command line."""
    base, side = sys.argv[1:]
    return Asked(Path(base), int(side))


def tell(marks: Marks) -> None:
    """In the last line of what is printed."""
    print(json.dumps(asdict(marks)))


def told(printed: str) -> Marks:
    """By that process."""
    return Marks(**json.loads(printed.splitlines()[-1]))
