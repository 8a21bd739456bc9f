"""Command-line flags for the inputs of the training signature, for commands that take the same inputs."""

import argparse
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora.dataset.limits import HEAD, Budget
from lora.dataset.names import Listed, is_user_file
from lora.dataset.refusal import naming_input
from lora.dataset.selection import is_known, select_files
from lora.dataset.tars import LISTED_SIZE
from lora.images.products import maker_of
from lora.workspace import workspace
from script.caption_folder import refuse_saved_zip
from script.openapi import training_inputs

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE, CAPTIONS, RESUME = "input_images", "input_captions", "resume_from"
TRAINED = "output/flux_train_replicate/"  # the folder in the tar of a training
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


def refuse_output(path: Path, *, is_ours: Callable[[Path], bool]) -> None:
    """Exit with one sentence if a file cannot be written to this path, or if the file there is not one of ours."""
    if not path.parent.is_dir() or (path.exists() and not path.is_file()):  # a device, say: it would be replaced
        sys.exit(f"error: --output is {str(path)!r}: expected a file in an existing folder")
    if path.is_file() and path.stat().st_size and not is_ours(path):
        found = f"{str(path)!r}, a file that this project did not make"
        sys.exit(f"error: --output is {found}: expected a new name; or delete that file first")


def is_trained_tar(path: Path) -> bool:
    """Whether a file is the tar of a training, by the name of its first file."""
    try:
        with tarfile.open(path, "r:") as tar:
            first = tar.next()
    except (tarfile.TarError, OSError):
        return False
    return first is not None and first.name.startswith(TRAINED)


def is_our_image(path: Path) -> bool:
    """Whether a file is an image that a command of this project made."""
    return maker_of(path) is not None


@contextmanager
def archived(path: str | None, *, named: str = ARCHIVE) -> Iterator[str | None]:
    """The path of an archive; a folder is packed into a temporary tar for the duration of the context.

    So the training reads only archives, and a client of a server cannot name a folder on the server.
    """
    folder = Path(path or "")
    if path is None or not folder.is_dir():
        yield path
        return
    with workspace(f"folder-{named}") as temporary, naming_input(named):
        if named == CAPTIONS:
            refuse_saved_zip(folder)
        tar = temporary / "folder.tar"
        files = list_folder(folder)
        # which files a training unpacks depends on its lora_type
        selections = [select_files(files, with_references=each) for each in (False, True)]
        used = {file.name for file in files if any(selection.unpacks(file.name) for selection in selections)}
        packed = [file for file in files if file.name in used]
        Budget.of_folder(temporary).check(sum(file.size for file in packed))
        with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as output:
            for file in files:
                _add(output, folder / file.name, file, is_used=file.name in used)
        yield str(tar)
        shutil.rmtree(temporary, ignore_errors=True)


def list_folder(folder: Path) -> list[Listed]:
    """The user's files in a folder and the folders in it, sorted by their paths."""
    names = (file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file())
    return [_listed(folder / name, name) for name in names if is_user_file(name)]


def _listed(path: Path, name: str) -> Listed:
    if is_known(name):
        return Listed(name, path.stat().st_size, b"")
    with path.open("rb") as file:
        return Listed(name, path.stat().st_size, file.read(HEAD))


def _add(output: tarfile.TarFile, path: Path, file: Listed, *, is_used: bool) -> None:
    """Add a file to a tar, and of one that is not used only the name and the size, which a report needs."""
    info = tarfile.TarInfo(file.name)
    if not is_used:
        info.pax_headers = {LISTED_SIZE: str(file.size)}
        output.addfile(info)
        return
    info.size = file.size
    with path.open("rb") as content:
        output.addfile(info, content)
