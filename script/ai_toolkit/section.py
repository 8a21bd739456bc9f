"""A mapping in a job file, whose fields are taken one by one; what nobody takes is noted or refused by name."""

import difflib
from typing import Any

from script.ai_toolkit.fields import FIELDS, MAPPED, OFF, NoEffect, Only
from script.ai_toolkit.understanding import Understanding, printable, quoted

EMPTY: tuple[object, ...] = ("", [], {})


class Section:
    """One mapping of the file. A field that is null counts as absent, as in most of ai-toolkit's own files."""

    def __init__(self, kind: str, path: str, tree: object, understanding: Understanding) -> None:
        """`kind` is the name of its fields in fields.py, and `path` where it is in the file."""
        self.kind, self.path, self.report = kind, path, understanding
        if tree is not None and not isinstance(tree, dict):
            understanding.refuse(path, tree, "a mapping of fields and values")
        given = tree if isinstance(tree, dict) else {}
        self.fields: dict[str, Any] = {str(name): value for name, value in given.items() if value is not None}
        self.is_given = bool(self.fields)

    def at(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def get(self, name: str, default: object = None) -> object:
        """The value of a field, or its default in ai-toolkit."""
        return self.fields.get(name, default)

    def inner(self, name: str) -> "Section":
        """The section inside this one."""
        return Section(name, self.at(name), self.fields.get(name), self.report)

    def give(self, name: str, value: object, *, field: str, remark: str = "") -> None:
        """Take a value of a field for an input; the table says so if it is ai-toolkit's default."""
        default = "" if field in self.fields else "ai-toolkit's default"
        remarks = ", ".join(filter(None, (default, remark)))
        self.report.give(name, value, path=self.at(field), found=self.fields.get(field), remark=remarks)

    def positive(self, name: str, value: object, *, field: str, remark: str = "") -> None:
        """The same for a number above 0, as 0 would leave the choice to lora_type here."""
        if isinstance(value, int | float) and not value > 0 and name not in self.report.flags:
            self.report.refuse(self.at(field), value, "more than 0")
        else:
            self.give(name, value, field=field, remark=remark)

    def whole(self, field: str, default: int, *, least: int = 1) -> int:
        """The value of a field as a whole number; another one is a fault, and counts as the default."""
        value = self.get(field, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        self.report.refuse(self.at(field), value, f"a whole number from {least} on")
        return default

    def close(self) -> None:
        """Note or refuse the fields that are not mapped to an input."""
        for name, value in self.fields.items():
            if name in MAPPED[self.kind]:
                continue
            rule = FIELDS[self.kind].get(name)
            if isinstance(rule, NoEffect):
                self.report.note(self.at(name), value, f"no effect here: {rule.because}")
            elif isinstance(rule, Only):
                self._only(name, value, rule)
            else:
                self._unknown(name)

    def _only(self, name: str, value: object, rule: Only) -> None:
        if value in rule.values or (value in EMPTY and None in rule.values):
            self.report.note(self.at(name), value, "as here")
            return
        wanted = [each for each in rule.values if each is not None]
        if rule.values is OFF and not isinstance(value, bool):
            wanted = []  # false is no value for a path or a list
        expected = " or ".join(map(quoted, wanted)) or "none"
        self.report.refuse(self.at(name), value, f"{expected}, because {rule.because}")

    def _unknown(self, name: str) -> None:
        known = [*MAPPED[self.kind], *FIELDS[self.kind]]
        near = difflib.get_close_matches(name, known, n=1)
        names = ", ".join(MAPPED[self.kind] or FIELDS[self.kind])
        expected = f"expected {near[0]}" if near else f"expected one of {names}; or remove it"
        self.report.fault(f"{self.at(printable(name[:80]))} is not a field that ai-toolkit has there: {expected}")
