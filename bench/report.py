"""How every benchmark is asked and how it ends: its numbers in a file, then a table for a person."""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def argument_parser(name: str, description: str | None, *, small: str) -> argparse.ArgumentParser:
    """What every benchmark may be asked; `small` says what its small configuration is."""
    parser = argparse.ArgumentParser(prog=f"script/bench {name}", description=description)
    parser.add_argument("--small", action="store_true", help=small)
    parser.add_argument("--output", type=Path, help="where to write the numbers (default: in bench/results)")
    return parser


def keep(numbers: Mapping[str, object], *, name: str, output: Path | None) -> Path:
    """Write numbers to `output`, or to a file of this name and today's date; the path."""
    path = output or RESULTS / f"{name}-{date.today()}.json"
    path.write_text(json.dumps(numbers, indent=1) + "\n")
    return path


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
