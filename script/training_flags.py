"""Command-line flags for the inputs of the training signature, for commands that take the same inputs."""

import argparse
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora.dataset.limits import Budget
from lora.dataset.names import is_user_file
from lora.dataset.refusal import naming_input
from script.openapi import training_inputs

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE, CAPTIONS, RESUME = "input_images", "input_captions", "resume_from"
TYPES = {"integer": int, "number": float, "string": str}


def add_inputs(parser: argparse.ArgumentParser, *, only: Iterable[str] | None = None) -> None:
    """Add the archive as an argument, and a flag for each other input, or for the inputs in `only`."""
    inputs = training_inputs(ROOT)
    archive = f"{inputs[ARCHIVE]['description']}; or a folder of these"
    parser.add_argument(ARCHIVE, metavar="photos.zip", nargs="?", help=archive)  # its absence is refused later
    for name in inputs if only is None else only:
        if name != ARCHIVE:
            _add_flag(parser, f"--{name.replace('_', '-')}", inputs[name])


def _add_flag(parser: argparse.ArgumentParser, flag: str, schema: dict[str, Any]) -> None:
    if schema["type"] == "boolean":
        action = argparse.BooleanOptionalAction
        parser.add_argument(flag, action=action, default=schema["default"], help=schema["description"])
        return
    default = schema.get("default")
    help_text = schema["description"] + ("" if default is None else " (default: %(default)s)")
    parser.add_argument(flag, type=TYPES[schema["type"]], choices=schema.get("enum"), default=default, help=help_text)


def refuse_output(path: Path) -> None:
    """Exit with one sentence if a file cannot be written to this path."""
    if not path.parent.is_dir() or path.is_dir():
        sys.exit(f"error: --output is {str(path)!r}: expected a file in an existing folder")


@contextmanager
def archived(path: str | None, *, named: str = ARCHIVE) -> Iterator[str | None]:
    """The path of an archive; a folder is packed into a temporary tar for the duration of the context.

    So the training reads only archives, and a client of a server cannot name a folder on the server.
    """
    folder = Path(path or "")
    if path is None or not folder.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="flux-lora-folder-") as temporary, naming_input(named):
        tar = Path(temporary) / "folder.tar"
        files = sorted(
            file for file in folder.rglob("*") if file.is_file() and is_user_file(f"{file.relative_to(folder)}")
        )
        Budget.of_folder(Path(temporary)).check(sum(file.stat().st_size for file in files))
        with tarfile.open(tar, "w", dereference=True) as output:
            for file in files:
                output.add(file, arcname=file.relative_to(folder))
        yield str(tar)
