"""The flag --config, for commands that take the inputs of a training: a file gives the inputs that no flag gives."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from lora.training.recipe.config import CHECKS
from script.ai_toolkit.config_file import ConfigFile, read_config_file
from script.training_flags import ARCHIVE
from weights.bases import SETTING

HELP = "a job file of ai-toolkit, or the config.yaml of an earlier training; flags win over it"
OUTPUT = "output"


def parse_with_config(parser: argparse.ArgumentParser, *, names_output: bool) -> dict[str, Any]:
    """Add --config, parse the command line, and print how the file was understood.

    If `names_output`, the file names the output, too, unless the flag is given. The base that the file names becomes
    that of this process. Exits with a sentence for each fault of the file.
    """
    parser.add_argument("--config", type=Path, help=HELP)
    arguments = vars(parser.parse_args())
    path: Path | None = arguments.pop("config")
    if path is None:
        return arguments
    given = _given(parser, arguments)
    try:
        config = read_config_file(path, flags=_inputs(given), defaults=_inputs(arguments))
        # a command that prints JSON has its stdout for nothing else
        print(config.table, flush=True, file=sys.stderr if arguments.get("json") else sys.stdout)
        output = _output(config) if names_output and OUTPUT not in given else {}
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if config.base:
        os.environ[SETTING] = config.base
    return {**arguments, **config.inputs, **output, **given}


def _given(parser: argparse.ArgumentParser, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are on the command line: those that argparse changes if it is told that all are None."""
    namespace = parser.parse_args(namespace=argparse.Namespace(**dict.fromkeys(arguments)))
    return {name: value for name, value in vars(namespace).items() if value is not None and name in arguments}


def _inputs(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name in CHECKS or name == ARCHIVE}


def _output(config: ConfigFile) -> dict[str, Path]:
    """The output of the file, whose folder is made, as ai-toolkit does."""
    if not config.output:
        return {}
    output = Path(config.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"training_folder is {str(output.parent)!r}, which cannot be made ({error.strerror}): give --output"
        ) from error
    return {OUTPUT: output}
