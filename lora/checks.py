"""Validation of input values, for callers that no schema has validated. Each error is one sentence."""

import difflib
import re
import reprlib
from collections.abc import Collection, Iterable, Sequence

LARGEST_SHOWN = 2**63
LONGEST_NAME = 100  # characters of an unknown input
NUL = "\0"
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair, which JSON can have and no encoding holds


def check_int(name: str, value: object, *, at_least: int, at_most: int) -> int:
    """Return `value` as an int (Cog may pass 3 as 3.0); raises ValueError unless it is whole and within the bounds."""
    number = check_whole(name, value, expected=f"a whole number from {at_least} to {at_most}")
    if not at_least <= number <= at_most:
        raise ValueError(f"{name} is {short_repr(value)}: expected {at_least} to {at_most}")
    return number


def check_whole(name: str, value: object, *, expected: str = "a whole number") -> int:
    """Return `value` as an int of any size (Cog may pass 3 as 3.0); raises ValueError unless it is whole."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"{name} is {short_repr(value)}: expected {expected}")
    return int(value)


def check_float(name: str, value: object, *, at_least: float, at_most: float) -> float:
    """Return `value` as a float; raises ValueError unless it is a number within the bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not at_least <= value <= at_most:
        raise ValueError(f"{name} is {short_repr(value)}: expected a number from {at_least:g} to {at_most:g}")
    return float(value)


def check_text(name: str, value: object, *, at_most: int) -> str:
    """Return `value` unchanged; raises ValueError unless it is text of at most `at_most` characters without NUL, which
    can be encoded."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {short_repr(value)}: expected text")
    if len(value) > at_most:
        raise ValueError(f"{name} has {len(value)} characters: expected at most {at_most}")
    if half := SURROGATE.search(value):
        raise ValueError(
            f"{name} has half of a character, as of a cut emoji, at position {half.start()}: expected text"
        )
    return check_no_nul(name, value)


def check_secret(name: str, value: object) -> str:
    """Return a secret as text without spaces around it; None is an empty one.

    `value` is text, or a record such as Cog's Secret that hides it behind `get_secret_value`. Raises ValueError for
    another type; the error does not contain the value.
    """
    secret = value.get_secret_value() if hasattr(value, "get_secret_value") else value
    if not isinstance(secret, str | None):
        raise ValueError(f"{name} is of type {type(secret).__name__}: expected text")
    return (secret or "").strip()


def check_names(given: Iterable[str], known: Collection[str]) -> None:
    """Raise ValueError for the first name of an input that is not known, with the known one that is most like it."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            expected = near[0] if near else f"one of {', '.join(known)}"
            raise ValueError(f"{name[:LONGEST_NAME]} is not an input: expected {expected}")


def check_no_nul(name: str, value: str) -> str:
    """Return text unchanged; raises ValueError if it has a NUL character, which ends a text in other programs."""
    if NUL in value:
        raise ValueError(f"{name} has a NUL character at position {value.index(NUL)}: expected text without it")
    return value


def check_list(name: str, value: object) -> list[object]:
    """Return `value` unchanged; raises ValueError unless it is a list."""
    if not isinstance(value, list):
        raise ValueError(f"{name} is {short_repr(value)}: expected a list")
    return value


def check_bool(name: str, value: object) -> bool:
    """Return `value` unchanged; raises ValueError unless it is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {short_repr(value)}: expected true or false")
    return value


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """Return `value` unchanged; raises ValueError unless it is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {short_repr(value)}: expected one of {', '.join(choices)}")
    return value


def short_repr(value: object) -> str:
    """The value as errors quote it: shortened. Python refuses to convert the largest integers to text."""
    return "a huge number" if isinstance(value, int) and abs(value) > LARGEST_SHOWN else reprlib.repr(value)
