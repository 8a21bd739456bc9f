"""A settings file that somebody else wrote, read as plain data: YAML or JSON. Knows no field of it.

Numbers are read as in YAML 1.2, as ai-toolkit does (toolkit/config.py): PyYAML alone takes `4e-4` for text.
"""

import json
import os
import re
import tomllib
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

LARGEST = 256 * 1024  # bytes, our choice: the examples of ai-toolkit have up to 6 KiB
MOST_VALUES, MOST_LEVELS = 4_000, 50  # our choice, too
EXPONENT = re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
VARIABLE = re.compile(r"\$\{([^}\n]+)\}")
EXPECTED = "expected the job file of ai-toolkit (YAML or JSON), or the config.yaml out of the tar of a training"


class Refused(yaml.YAMLError):
    """What YAML allows and no settings need; its text continues a sentence that starts with the file."""


class Extent(NamedTuple):
    """How many values a node has with all that is in it, and how many levels."""

    values: int
    levels: int


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2, no tags, and bounds on what aliases stand for."""

    def __init__(self, stream: str) -> None:
        """Read from text."""
        super().__init__(stream)
        self.values = self.level = 0

    def get_single_node(self) -> yaml.Node | None:
        """Raise Refused if aliases make the document larger than the bounds, or endless."""
        node = super().get_single_node()
        if node is not None:
            _refuse_above_bounds(_extent(node, {}))
        return node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Raise Refused for a tag such as !!python/name, and above the bounds."""
        event = self.peek_event()
        if getattr(event, "tag", None):
            raise Refused(f"{_line_of(event)} has a tag (!): remove it")
        self.values, self.level = self.values + 1, self.level + 1
        _refuse_above_bounds(Extent(self.values, self.level))
        node = super().compose_node(parent, index)
        self.level -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Raise Refused for a field that is there twice, of which PyYAML would take the last."""
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise Refused(f"{_line_of(key)} has {str(key.value)[:40]!r} twice: remove one of them")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789."))


def _extent(node: yaml.Node, known: dict[int, Extent | None]) -> Extent:
    """The extent of a node; `known` has those of other nodes, and None for nodes around this one."""
    if id(node) not in known:
        known[id(node)] = None
        inner = [each for pair in node.value for each in (pair if isinstance(pair, tuple) else [pair])]
        extents = [_extent(each, known) for each in inner if isinstance(each, yaml.Node)]
        levels = 1 + max((each.levels for each in extents), default=0)
        known[id(node)] = Extent(1 + sum(each.values for each in extents), levels)
    extent = known[id(node)]
    if extent is None:
        raise Refused(f"{_line_of(node)} is inside of itself by an alias (*)")
    return extent


def _refuse_above_bounds(extent: Extent) -> None:
    if extent.values > MOST_VALUES:
        raise Refused(f"stands for more than {MOST_VALUES:,} values, those of aliases (*) counted at each")
    if extent.levels > MOST_LEVELS:
        raise Refused(f"is nested too deeply: expected at most {MOST_LEVELS} levels")


def _line_of(found: yaml.Node | yaml.Event) -> str:
    mark = found.start_mark
    return f"line {mark.line + 1}" if mark else "the start"


def read_tree(path: Path) -> object:
    """Read a file with `${VARIABLE}` replaced from the environment, but for lines that are comments.

    Raises ValueError with one sentence for what is no text, too large, no YAML or JSON, or names a missing variable;
    no part of the file is quoted, as it may hold a secret from the environment.
    """
    text = _with_variables(_text(path), path)
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass  # YAML has braces, too, and its error has the line
    try:
        tree: object = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(_problem(path, text, error)) from error
    except ValueError as error:
        found = "a number of thousands of digits, or a date that does not exist"
        raise ValueError(f"--config {path} has {found}: {EXPECTED}") from error
    if not isinstance(tree, dict) and _is_toml(text):
        raise ValueError(_toml(path))
    return tree


def _text(path: Path) -> str:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no file"
        raise ValueError(f"--config is {str(path)!r}, where {found} is: {EXPECTED}")
    size = path.stat().st_size
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if b"\0" in content or content.startswith((b"PK", b"\x1f\x8b")):
        advice = "`tar -xf trained_model.tar` unpacks such a tar, and `--resume-from` takes it whole"
        raise ValueError(f"--config {path} is not a text file: {EXPECTED}; {advice}")
    if len(content) > LARGEST:
        raise ValueError(f"--config {path} has {size:,} bytes: expected at most {LARGEST:,}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--config {path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error


def _with_variables(text: str, path: Path) -> str:
    """Replace each `${NAME}`; in the text, as ai-toolkit does, so that a number stays a number."""
    lines = text.splitlines(keepends=True)
    return "".join(line if line.lstrip().startswith("#") else VARIABLE.sub(_value_for(path), line) for line in lines)


def _value_for(path: Path) -> Callable[[re.Match[str]], str]:
    def value(found: re.Match[str]) -> str:
        name = found[1].strip()
        if name not in os.environ:
            raise ValueError(
                f"--config {path} has ${{{name}}}, and no variable {name} is set: set it, or write the value"
            )
        return os.environ[name]

    return value


def _problem(path: Path, text: str, error: yaml.YAMLError) -> str:
    if isinstance(error, Refused):
        return f"--config {path} {error}"
    if _is_toml(text):
        return _toml(path)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is no YAML"
    mark = getattr(error, "problem_mark", None)
    where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"--config {path}{where} cannot be read: {problem}; {EXPECTED}"


def _is_toml(text: str) -> bool:
    try:
        return bool(tomllib.loads(text))
    except (ValueError, RecursionError):
        return False


def _toml(path: Path) -> str:
    return (
        f"--config {path} is TOML, as kohya's sd-scripts and fluxgym write it: {EXPECTED}; give its settings as flags,"
        " and its image folder as the archive"
    )
