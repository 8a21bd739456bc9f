"""Reads the inputs and the output of an entry point from its source, without running it.

Cog reads the source too, and silently drops what it cannot read, such as a bound that is a name or a description in two
parts. So this module accepts only the plain forms that Cog keeps, and raises an error for all others.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

Scalar = str | int | float | bool | None
Value = Scalar | list[Scalar]
Definition = TypeVar("Definition", ast.ClassDef, ast.FunctionDef)

VALUES_OF = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,), "Path": (str,), "Secret": (str,)}
SETTINGS = {  # the arguments of Input(...), and the Python types of their values
    "description": (str,),
    "default": (str, int, float, bool, type(None), list),
    "ge": (int, float),
    "le": (int, float),
    "min_length": (int,),
    "max_length": (int,),
    "regex": (str,),
    "choices": (list,),
}
LARGEST_NUMBER = 2**53  # Cog converts numbers to float64, which is exact up to this number

# The notations that Cog keeps: no escape, prefix, concatenation, comment, name or parenthesis.
STRING = r'"[^"\\\n]*"|\'[^\'\\\n]*\''
NUMBER = r"-?\d[\d_]*(?:\.\d+)?(?:e-?\d+)?"
SCALAR = rf"(?:{STRING}|{NUMBER}|True|False|None)"
LIST = rf"\[\s*(?:{SCALAR}(?:\s*,\s*{SCALAR})*\s*,?\s*)?\]"
SETTING = re.compile(rf"\w+=(?:{SCALAR}|{LIST})")
TYPE = re.compile(r"(?:(Optional|list)\[(\w+)\]|(\w+))")


class CogType(NamedTuple):
    """A type of a signature: its name, and whether it is in `Optional[...]` or `list[...]`."""

    name: str
    optional: bool
    repeated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CogInput:
    """One parameter of an entry point: its type, and the arguments of its Input(...)."""

    where: str
    name: str
    kind: CogType
    settings: dict[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPoint:
    """The inputs of a function in order, and its output: a type, or the types of a model's fields."""

    inputs: list[CogInput]
    output: CogType | dict[str, CogType]


def read_entry_point(path: Path, name: str) -> EntryPoint:
    """Read a function (`train`) or method (`Runner.run`). Raises ValueError at the first form that Cog may drop."""
    text = path.read_text(encoding="utf-8")
    source = _Source(path, text.encode().split(b"\n"), ast.parse(text, filename=str(path)))
    function = _find_function(source, name)
    arguments = function.args
    if arguments.vararg or arguments.kwarg or arguments.posonlyargs or arguments.kwonlyargs:
        raise source.error(function, f"{name} may only have ordinary parameters, without *, ** or /")
    parameters = arguments.args[1:] if "." in name else arguments.args
    if len(arguments.defaults) < len(parameters):
        bare = parameters[-len(arguments.defaults) - 1]
        raise source.error(bare, f"{bare.arg} has no Input(description=...)")
    defaults = arguments.defaults[-len(parameters) :] if parameters else []
    inputs = [_read_input(source, *pair) for pair in zip(parameters, defaults, strict=True)]
    return EntryPoint(inputs=inputs, output=_read_output(source, function))


@dataclass(frozen=True, slots=True)
class _Source:
    """A parsed file with its lines, for error messages."""

    path: Path
    lines: list[bytes]  # UTF-8, as the tree counts columns in bytes
    tree: ast.Module

    def written(self, node: ast.expr | ast.keyword) -> str:
        """Return the text of a node. `ast.get_source_segment` would split the whole file for each node."""
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        lines = self.lines[first : last + 1]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return b"\n".join(lines).decode()

    def before(self, node: ast.expr) -> str:
        """Return the text before a node on its line, because the tree does not contain parentheses."""
        return self.lines[node.lineno - 1][: node.col_offset].decode().rstrip()

    def where(self, node: ast.expr | ast.stmt | ast.arg | ast.keyword) -> str:
        return f"{self.path.name} line {node.lineno}"

    def error(self, node: ast.expr | ast.stmt | ast.arg | ast.keyword, fault: str) -> ValueError:
        return ValueError(f"{self.where(node)}: {fault}")

    def imports_from_cog(self, name: str) -> bool:
        imports = (node for node in self.tree.body if isinstance(node, ast.ImportFrom) and node.module == "cog")
        return any(alias.name == name and alias.asname is None for node in imports for alias in node.names)


def _find_function(source: _Source, name: str) -> ast.FunctionDef:
    *classes, function = name.split(".")
    body = source.tree.body
    for part in classes:
        body = _only(source, body, part, ast.ClassDef).body
    return _only(source, body, function, ast.FunctionDef)


def _only(source: _Source, body: list[ast.stmt], name: str, kind: type[Definition]) -> Definition:
    found = [node for node in body if getattr(node, "name", None) == name]
    if len(found) != 1 or not isinstance(found[0], kind):
        wanted = "class" if kind is ast.ClassDef else "plain function"
        raise ValueError(f"{source.path.name} must define {name} exactly once, as a {wanted}")
    if found[0].decorator_list:
        raise source.error(found[0], f"{name} has a decorator, which would hide the defaults from Cog")
    return found[0]


def _read_input(source: _Source, parameter: ast.arg, call: ast.expr) -> CogInput:
    name = parameter.arg
    if parameter.annotation is None:
        raise source.error(parameter, f"{name} has no type")
    if not (isinstance(call, ast.Call) and source.written(call.func) == "Input" and source.before(call).endswith("=")):
        raise source.error(parameter, f"{name} is not written as `{name}: type = Input(description=...)`")
    if call.args or not source.imports_from_cog("Input"):
        raise source.error(call, f"the Input of {name} must be imported from cog and have only keyword arguments")
    kind = _read_type(source, parameter.annotation, name)
    settings = dict(_read_setting(source, keyword, of=name) for keyword in call.keywords)
    entry = CogInput(where=source.where(parameter), name=name, kind=kind, settings=settings)
    for fault in _faults(entry):
        raise source.error(parameter, f"{name} {fault}")
    return entry


def _read_type(source: _Source, annotation: ast.expr, name: str) -> CogType:
    spelled = TYPE.fullmatch(source.written(annotation))
    kind = (spelled[2] or spelled[3]) if spelled else ""
    if spelled is None or kind not in VALUES_OF or source.before(annotation)[-1:] not in (":", ">"):
        wanted = "a plain type, Optional[...] or list[...]"
        raise source.error(annotation, f"{name} has the type `{source.written(annotation)}`: expected {wanted}")
    if kind in ("Path", "Secret") and not source.imports_from_cog(kind):
        raise source.error(annotation, f"{name} needs {kind} imported from cog under that name")
    return CogType(name=kind, optional=spelled[1] == "Optional", repeated=spelled[1] == "list")


def _read_setting(source: _Source, keyword: ast.keyword, *, of: str) -> tuple[str, Value]:
    if keyword.arg not in SETTINGS:
        raise source.error(keyword, f"{of} sets `{source.written(keyword)}`, which is not one of {', '.join(SETTINGS)}")
    if not SETTING.fullmatch(source.written(keyword)):
        written = f"`{source.written(keyword)}`"
        raise source.error(keyword, f"{of} sets {written}, but Cog only keeps a single plain literal without escapes")
    value = ast.literal_eval(keyword.value)
    if type(value) not in SETTINGS[keyword.arg]:
        raise source.error(keyword, f"{of} sets {keyword.arg} to {value!r}, which is of the wrong type")
    return keyword.arg, value


def _faults(entry: CogInput) -> Iterator[str]:
    """Yield the faults of an input in plain form: values that Cog refuses, drops or does not check."""
    settings, kind = entry.settings, entry.kind
    if not settings.get("description"):
        yield "has no description"
    if kind.optional and "default" not in settings:
        yield "is Optional without a default"
    if "choices" in settings and kind.repeated:
        yield "has choices for a list"
    if settings.get("choices") == []:
        yield "has no choices"
    if settings.keys() & {"ge", "le"} and (kind.name not in ("int", "float") or kind.repeated):
        yield "has bounds but is not a number"
    if settings.keys() & {"min_length", "max_length", "regex"} and (kind.name != "str" or kind.repeated):
        yield "has text limits but is not text"
    if any(abs(number) > LARGEST_NUMBER for number in _numbers(settings)):
        yield f"has a number beyond {LARGEST_NUMBER}, which Cog would round"
    yield from _faults_of_values(entry)


def _numbers(settings: dict[str, Value]) -> Iterator[int | float]:
    for value in settings.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int | float):
                yield item


def _faults_of_values(entry: CogInput) -> Iterator[str]:
    settings, kind = entry.settings, entry.kind
    default, choices = settings.get("default"), settings.get("choices")
    if isinstance(choices, list) and not all(type(choice) in VALUES_OF[kind.name] for choice in choices):
        yield f"has choices that are not of type {kind.name}"
    if "default" not in settings or (default is None and kind.optional):
        return
    if default is None:
        yield "has default=None without Optional[...], and Cog would make it required"
    elif isinstance(default, list) != kind.repeated or not all(
        type(item) in VALUES_OF[kind.name] for item in (default if isinstance(default, list) else [default])
    ):
        yield f"has the default {default!r}, which is not of type {kind.name}"
    elif isinstance(choices, list) and default not in choices:
        yield f"has the default {default!r}, which is not one of its choices"
    elif isinstance(default, int | float) and not _is_within(default, settings):
        yield f"has the default {default!r}, which is outside its bounds"


def _is_within(number: float, settings: dict[str, Value]) -> bool:
    least, most = settings.get("ge"), settings.get("le")
    return not (isinstance(least, int | float) and number < least) and not (
        isinstance(most, int | float) and number > most
    )


def _read_output(source: _Source, function: ast.FunctionDef) -> CogType | dict[str, CogType]:
    if function.returns is None:
        raise source.error(function, f"{function.name} has no return type")
    written = source.written(function.returns)
    models = [node for node in source.tree.body if isinstance(node, ast.ClassDef) and node.name == written]
    if models and source.before(function.returns).endswith("->"):
        return _read_model(source, models[0])
    kind = _read_type(source, function.returns, f"the output of {function.name}")
    if kind.optional:
        raise source.error(function.returns, f"the output of {function.name} may not be Optional")
    return kind


def _read_model(source: _Source, model: ast.ClassDef) -> dict[str, CogType]:
    if [source.written(base) for base in model.bases] != ["BaseModel"] or not source.imports_from_cog("BaseModel"):
        raise source.error(model, f"{model.name} must derive only from cog's BaseModel")
    fields = {}
    for node in model.body:
        if isinstance(node, ast.Expr):
            continue  # the docstring
        if not isinstance(node, ast.AnnAssign) or node.value is not None:
            raise source.error(node, f"{model.name} may only have fields written as `name: type`")
        name = source.written(node.target)
        fields[name] = _read_type(source, node.annotation, name)
    return fields
