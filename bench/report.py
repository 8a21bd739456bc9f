"""The arguments and the output of every benchmark: numbers in a file, then a table for people."""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def argument_parser(name: str, description: str | None, *, small: str) -> argparse.ArgumentParser:
    """A parser with the arguments that all benchmarks have; `small` describes the small configuration."""
    parser = argparse.ArgumentParser(prog=f"script/bench {name}", description=description)
    parser.add_argument("--small", action="store_true", help=small)
    parser.add_argument("--output", type=Path, help="file for the raw numbers (default: in bench/results)")
    return parser


def write_results(numbers: Mapping[str, object], *, name: str, output: Path | None) -> Path:
    """Write numbers to `output`, or to a file with this name and today's date; returns the path."""
    path = output or RESULTS / f"{name}-{date.today()}.json"
    path.write_text(json.dumps(numbers, indent=1) + "\n")
    return path


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
