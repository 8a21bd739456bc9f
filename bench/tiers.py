"""Whether a training fits into the memory of a card as its plan predicts, on a larger GPU with a memory limit.

Random weights of the real shape, rank 16 on all layers, one image per step. The speed of a smaller card is not
measured.
"""

import json
import subprocess
import sys
from dataclasses import asdict

from bench.machine import machine
from bench.random_flux import BASES, DEFAULT_BASE, tiny_sizes
from bench.report import argument_parser, table, write_results
from bench.tier_case import CardResult, measure_card
from lora.training.memory.configurations import GB

CARDS, SIDES, STEPS = (8, 12, 16, 24, 48), (512, 1024), 10  # GB, pixels
TITLES = ("card", "px", "plan", "predicted", "allocated", "reserved", "s/step")


def main() -> None:
    """Measure, write the results, print a table."""
    parser = argument_parser("tiers", __doc__, small="one card, a tiny shape, without a limit")
    parser.add_argument("--base", choices=BASES, default=DEFAULT_BASE, help="(default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.small:
        found = [measure_card(tiny_sizes(arguments.base), card=8, side=64, steps=1)]
    else:
        found = [_run_in_process(arguments.base, card, side) for card in CARDS for side in SIDES]
    numbers = {"machine": machine("torch", "diffusers", "peft", "bitsandbytes"), "tried": [asdict(e) for e in found]}
    path = write_results(numbers, name=f"tiers-{arguments.base}", output=arguments.output)
    print(f"wrote {path}\n\n{as_markdown(found)}")


def _run_in_process(base: str, card: int, side: int) -> CardResult:
    print(f"{card} GB, {side} px ...", file=sys.stderr)
    command = [sys.executable, "-m", "bench.tier_case", base, str(card), str(side), str(STEPS)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return CardResult(**json.loads(printed.splitlines()[-1]))


def as_markdown(found: list[CardResult]) -> str:
    """A table with a row for each case."""
    return table(TITLES, [_row(each) for each in found])


def _row(each: CardResult) -> list[str]:
    plan = each.plan.removeprefix("plan: ").partition(", encoders")[0]
    peaks = [f"{peak / GB:.1f} GB" if peak is not None else "" for peak in (each.allocated, each.reserved)]
    took = "out of memory" if each.seconds is None else f"{each.seconds:.3f}"
    return [f"{each.card} GB", str(each.side), plan, f"{each.predicted / GB:.1f} GB", *peaks, took]


if __name__ == "__main__":
    main()
