"""The inputs of a job, checked by the signature of the entry point before anything is loaded. Knows no server.

Cog's server checks requests by the same signature; RunPod checks nothing.
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora.checks import (
    check_bool,
    check_choice,
    check_float,
    check_int,
    check_list,
    check_names,
    check_secret,
    check_whole,
    short_repr,
)
from script.cog_inputs import CogInput, read_entry_point

FILE, SECRET = "Path", "Secret"  # types of a signature


@dataclass(frozen=True, slots=True)
class Form:
    """The inputs that a worker takes, in the order of their signature, and those that another kind of worker takes."""

    inputs: Mapping[str, CogInput]
    elsewhere: frozenset[str]
    advice: str  # what to do about one of those

    @classmethod
    def of(cls, entry: tuple[Path, str], *, other: tuple[Path, str], advice: str) -> "Form":
        """Read the form of an entry point, which is a file and the name of a function in it."""
        inputs = {each.name: each for each in read_entry_point(*entry).inputs}
        names = {each.name for each in read_entry_point(*other).inputs}
        return cls(inputs, frozenset(names - inputs.keys()), advice)

    def named(self, kind: str) -> list[str]:
        """The names of the inputs of a type, such as `FILE`."""
        return [name for name, each in self.inputs.items() if each.kind.name == kind]

    def checked(self, given: object) -> dict[str, Any]:
        """Return all inputs by name; one that is missing or null has the default of the signature.

        Raises ValueError with one sentence for an unknown name, and for a value of another type, outside of the bounds
        or not among the choices. The sentence never contains a secret.
        """
        if not isinstance(given, Mapping):
            example = json.dumps({"input": dict.fromkeys(list(self.inputs)[:1], "...")})
            raise ValueError(f"input is {short_repr(given)}: expected inputs by their names, as in {example}")
        for name in given:
            if name in self.elsewhere:
                raise ValueError(f"{name} is not an input of this worker: {self.advice}")
        check_names(given, self.inputs)
        return {name: _checked(each, given.get(name)) for name, each in self.inputs.items()}


def _checked(entry: CogInput, value: object) -> object:
    if value is None:
        if "default" not in entry.settings:
            raise ValueError(f"{entry.name} is missing: expected {_noun(entry)}")
        return entry.settings["default"]
    if entry.kind.repeated:
        return [_checked_item(entry, item) for item in check_list(entry.name, value)]
    return _checked_item(entry, value)


def _checked_item(entry: CogInput, value: object) -> object:
    name, kind, choices = entry.name, entry.kind.name, entry.settings.get("choices")
    if isinstance(choices, list):
        return check_choice(name, value, [str(choice) for choice in choices])
    if kind == "bool":
        return check_bool(name, value)
    if kind == SECRET:
        return check_secret(name, value)
    if kind in ("int", "float"):
        return _checked_number(entry, value)
    if not isinstance(value, str):
        raise ValueError(f"{name} is {short_repr(value)}: expected {_noun(entry)}")
    return value


def _checked_number(entry: CogInput, value: object) -> float:
    least, most, name = entry.settings.get("ge"), entry.settings.get("le"), entry.name
    is_whole = entry.kind.name == "int"
    largest = math.inf if is_whole else sys.float_info.max  # JSON has whole numbers that no float holds
    if isinstance(least, int | float) and isinstance(most, int | float):
        if is_whole:
            return check_int(name, value, at_least=int(least), at_most=int(most))
        return check_float(name, value, at_least=least, at_most=most)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= largest:
        raise ValueError(f"{name} is {short_repr(value)}: expected {_noun(entry)}")
    number = check_whole(name, value) if is_whole else float(value)
    if isinstance(least, int | float) and number < least:
        raise ValueError(f"{name} is {short_repr(value)}: expected at least {least:g}")
    return number


def _noun(entry: CogInput) -> str:
    nouns = {"int": "a whole number", "float": "a number", FILE: "an https:// URL, a data URI or a path"}
    return nouns.get(entry.kind.name, "text")
