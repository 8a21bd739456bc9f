"""What a settings file was understood to mean: a row for each field, the inputs that they give, and the faults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lora.checks import short_repr
from lora.training.recipe.config import CHECKS

ABSENT = "-"
LONGEST_CELL = 44  # characters of a value in the table
LONGEST_QUOTED = 100  # characters of a text in an error


@dataclass(frozen=True, slots=True)
class Row:
    """A field by its path in the file, its value as text, and what it became here."""

    field: str
    found: str
    meaning: str


@dataclass(slots=True)
class Understanding:
    """Collects what the fields of a file mean. Values that a flag gives are not checked, as the flag wins."""

    flags: Mapping[str, Any]  # the inputs that are given by flags
    inputs: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    base: str = ""  # for FLUX_BASE, if that should be set
    output: str = ""  # for --output, if that is not given

    def give(self, name: str, value: object, *, path: str, found: object, remark: str = "") -> None:
        """Take a value for an input, checked as `train()` checks it; a wrong one is a fault that names the field."""
        if name in self.flags:
            return self.note(path, found, f"{flag_of(name)} {shown(self.flags[name])}, which is given, wins")
        try:
            CHECKS[name](path, value)
        except ValueError as error:
            return self.fault(str(error))
        self.inputs[name] = value
        return self.note(path, found, f"{name} {shown(value)}{f': {remark}' if remark else ''}")

    def note(self, path: str, found: object, meaning: str) -> None:
        """Add a row; `found` is None for a field that the file does not have."""
        self.rows.append(Row(path, ABSENT if found is None else shown(found), meaning))

    def fault(self, sentence: str) -> None:
        """Add a sentence on what cannot be trained."""
        self.faults.append(sentence)

    def refuse(self, path: str, found: object, expected: str) -> None:
        """Add a fault: the field, what was found and what was expected."""
        self.fault(f"{path} is {quoted(found)}: expected {expected}")


def flag_of(name: str) -> str:
    """The flag of an input."""
    return f"--{name.replace('_', '-')}"


def quoted(value: object) -> str:
    """A value for an error, as YAML would have it, but with escapes for what cannot be printed."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) and len(value) <= LONGEST_QUOTED else short_repr(value)


def printable(text: str) -> str:
    """A text without what could move the cursor or change the colors of a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def shown(value: object) -> str:
    """A value in one short line, as YAML would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = printable(" | ".join(value.splitlines())) or "''"
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 3]}..."


def as_table(rows: list[Row]) -> str:
    """The rows in three columns: field, value in the file, and what it became here."""
    table = [Row("field", "value", "here"), *rows]
    fields, values = max(len(row.field) for row in table), max(len(row.found) for row in table)
    return "\n".join(f"  {row.field:{fields}}  {row.found:{values}}  {row.meaning}" for row in table)
