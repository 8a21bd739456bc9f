"""Checks of what a person typed, for the times when no schema has checked it. Each raises one clear sentence."""

import reprlib
from collections.abc import Sequence

LARGEST_SHOWN = 2**63


def whole_number(name: str, value: object, *, at_least: int, at_most: int) -> int:
    """`value` as an int (Cog may deliver 3 as 3.0); raises ValueError unless it is whole and within the bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"{name} is {_shown(value)}: expected a whole number from {at_least} to {at_most}")
    if not at_least <= value <= at_most:
        raise ValueError(f"{name} is {_shown(value)}: expected {at_least} to {at_most}")
    return int(value)


def number(name: str, value: object, *, at_least: float, at_most: float) -> float:
    """`value` as a float; raises ValueError unless it is a number within the bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not at_least <= value <= at_most:
        raise ValueError(f"{name} is {_shown(value)}: expected a number from {at_least:g} to {at_most:g}")
    return float(value)


def text(name: str, value: object, *, at_most: int) -> str:
    """`value` as it is; raises ValueError unless it is text of at most so many characters."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_shown(value)}: expected text")
    if len(value) > at_most:
        raise ValueError(f"{name} has {len(value)} characters: expected at most {at_most}")
    return value


def listing(name: str, value: object) -> list[object]:
    """`value` as it is; raises ValueError unless it is a list."""
    if not isinstance(value, list):
        raise ValueError(f"{name} is {_shown(value)}: expected a list")
    return value


def yes_or_no(name: str, value: object) -> bool:
    """`value` as it is; raises ValueError unless it is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {_shown(value)}: expected true or false")
    return value


def one_of(name: str, value: object, choices: Sequence[str]) -> str:
    """`value` as it is; raises ValueError unless it is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {_shown(value)}: expected one of {', '.join(choices)}")
    return value


def _shown(value: object) -> str:
    """A value as an error repeats it: not too long, and Python refuses to write out the largest numbers at all."""
    return "a huge number" if isinstance(value, int) and abs(value) > LARGEST_SHOWN else reprlib.repr(value)
