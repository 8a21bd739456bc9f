"""A settings file as inputs of a training: a job of ai-toolkit, or the config.yaml of an earlier training here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from script.ai_toolkit.job import read_job
from script.ai_toolkit.own_settings import is_own, read_own
from script.ai_toolkit.safe_yaml import EXPECTED, read_tree
from script.ai_toolkit.understanding import Understanding, as_table


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a settings file says."""

    inputs: dict[str, Any]  # of the training, by name; without those that a flag gives
    base: str  # for FLUX_BASE; empty if that is set
    output: str  # the path of the tar; empty if the file names none
    table: str  # how each field was understood


def read_config_file(path: Path, *, flags: Mapping[str, Any], defaults: dict[str, Any]) -> ConfigFile:
    """Read a settings file; values of `flags`, which are inputs by name, win over it.

    Raises ValueError with a sentence for each fault, on a line of its own if there are several.
    """
    try:
        return understand(read_tree(path), path=path, flags=flags, defaults=defaults)
    except RecursionError as error:  # only JSON has no bound of its own
        raise ValueError(f"--config {path} is nested too deeply: {EXPECTED}") from error


def understand(tree: object, *, path: Path, flags: Mapping[str, Any], defaults: dict[str, Any]) -> ConfigFile:
    """The same for the content of a file."""
    report = Understanding(flags)
    if isinstance(tree, dict) and "job" in tree:
        read_job(tree, report)
        kind = "a job of ai-toolkit"
    elif is_own(tree):
        read_own(dict(tree) if isinstance(tree, dict) else {}, report, defaults)
        kind = "the settings of an earlier training"
    else:
        raise ValueError(f"--config {path} is {_described(tree)}: {EXPECTED}")
    if len(report.faults) == 1:
        raise ValueError(f"--config {path}: {report.faults[0]}")
    if report.faults:
        raise ValueError("\n  ".join([f"--config {path} has {len(report.faults)} faults:", *report.faults]))
    table = f"{path} is {kind}:\n{as_table(report.rows)}"
    return ConfigFile(report.inputs, report.base, report.output, table)


def _described(tree: object) -> str:
    if tree is None:
        return "empty"
    if not isinstance(tree, dict):
        return f"a {type(tree).__name__}, no mapping of fields"
    names = ", ".join(str(name)[:40] for name in list(tree)[:5])
    return f"a mapping without job (it has {names})" if tree else "empty"
