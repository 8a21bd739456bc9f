"""One checkpoint as a folder, which is read only if it is complete and undamaged.

Knows named tensors and JSON, and not what they mean.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora.dataset.names import printable

Json = dict[str, Any]
Tensors = Mapping[str, Tensor]

FORMAT = 1
MANIFEST, STATE = "manifest.json", "state.json"
SUFFIX = ".tensors"  # safetensors files by another name, as clients take the only .safetensors in a tar for the LoRA
TENSOR_FILE = re.compile(r"[a-z][a-z0-9_]{0,63}\.tensors", re.ASCII)
IN_TAR = "resume"
BLOCK_BYTES = 8 * 2**20
MAX_JSON_BYTES, MAX_FILES = 16 * 2**20, 64


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state that a training saved at a step. All its files were verified when it was read."""

    folder: Path
    step: int
    identity: Json  # the identity of the training; only a training of the same identity can resume from here
    values: Json
    names: tuple[str, ...]  # of the groups of tensors

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read one group of tensors into memory. Raises ValueError if it is missing or is no safetensors file."""
        if name not in self.names:
            raise ValueError(f"checkpoint {self.folder.name!r} has no {name}: expected one of {', '.join(self.names)}")
        try:
            return load_file(self.folder / f"{name}{SUFFIX}", backend="pread")
        except SafetensorError as error:
            reason = f"{name}{SUFFIX} is not a safetensors file ({printable(str(error))})"
            raise ValueError(f"checkpoint {self.folder.name!r}: {reason}") from error


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint in a folder, which may be untrusted. Raises ValueError with one sentence if it is damaged.

    Only regular files that the manifest names are read, as JSON or safetensors, and links are never followed. The
    values of tensors are not checked: they may not be finite, or may not fit the training.
    """
    try:
        step, identity, files = read_manifest(folder)
        for name, expected in files.items():
            _verify(folder, name, expected)
        names = tuple(name.removesuffix(SUFFIX) for name in files if name != STATE)
        return Checkpoint(folder, step, identity, _json(folder, STATE), names)
    except OSError as error:
        name = Path(error.filename or "").name
        raise ValueError(f"checkpoint {folder.name!r}: {name} cannot be read ({error.strerror})") from error


def packed(checkpoint: Checkpoint, *, folder: str) -> Iterator[tuple[str, Path]]:
    """The checkpoint's files and their names in a tar; the folder, unpacked from the tar, is a checkpoint again."""
    for name in (MANIFEST, STATE, *(f"{name}{SUFFIX}" for name in checkpoint.names)):
        yield f"{IN_TAR}/{folder}/{name}", checkpoint.folder / name


def write_files(folder: Path, tensors: Mapping[str, Tensors], values: Json) -> None:
    """Write groups of tensors, on any device, and JSON to a new folder, and sync them to disk.

    Raises OSError if the disk is full or broken, and ValueError unless the names of groups are lowercase words.
    """
    for name, group in tensors.items():
        path = folder / f"{name}{SUFFIX}"
        if not TENSOR_FILE.fullmatch(f"{name}{SUFFIX}"):
            raise ValueError(f"a group of tensors is named {name!r}: expected a lowercase word")
        # copies, because safetensors refuses tensors that share memory
        copies = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in group.items()}
        try:
            save_file(copies, path)
        except SafetensorError as error:
            raise OSError(f"checkpoint {folder.name!r}: {path.name} could not be written ({error})") from error
    (folder / STATE).write_text(json.dumps(values))
    for path in folder.iterdir():
        sync(path)
    sync(folder)


def write_manifest(folder: Path, step: int, identity: Json) -> None:
    """Write the manifest, which makes the folder a checkpoint: the size and sha256 of all its other files."""
    files = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, "step": step, "identity": identity, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    sync(folder / MANIFEST)
    sync(folder)


def read_manifest(folder: Path) -> tuple[int, Json, Json]:
    """The step, the identity, and the size and sha256 of each file by name, none of which is read.

    Raises ValueError with one sentence if it is damaged, and OSError if it is missing.
    """
    manifest, checkpoint = _json(folder, MANIFEST), f"checkpoint {folder.name!r}"
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{checkpoint} has format {shown(manifest.get('format'))}: expected {FORMAT}")
    step, identity, files = manifest.get("step"), manifest.get("identity"), manifest.get("files")
    if type(step) is not int or step < 0 or not isinstance(identity, dict) or not isinstance(files, dict):
        raise ValueError(f"{checkpoint} has an invalid {MANIFEST}: expected a step, an identity and files")
    if STATE not in files or len(files) > MAX_FILES:
        raise ValueError(f"{checkpoint} has {len(files)} files: expected at most {MAX_FILES}, including {STATE}")
    for name in files:
        if name != STATE and not TENSOR_FILE.fullmatch(name):
            raise ValueError(f"{checkpoint} lists the file {shown(name)}: expected names such as lora{SUFFIX}")
    return step, identity, files


def _verify(folder: Path, name: str, expected: object) -> None:
    """Raise ValueError unless a file is as the manifest says. Compares the size first, so that no huge file is read."""
    size = _regular_file_size(folder, name)
    expected_size = expected.get("bytes") if isinstance(expected, dict) else None
    if size != expected_size:
        raise ValueError(f"checkpoint {folder.name!r}: {name} has {size} bytes, expected {shown(expected_size)}")
    if _digest(folder / name) != expected:
        raise ValueError(f"checkpoint {folder.name!r}: {name} does not match the sha256 in its {MANIFEST}")


def _digest(path: Path) -> Json:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _json(folder: Path, name: str) -> Json:
    if _regular_file_size(folder, name) > MAX_JSON_BYTES:
        raise ValueError(f"checkpoint {folder.name!r}: {name} has more than {MAX_JSON_BYTES} bytes")
    content = None
    with suppress(ValueError, RecursionError):
        content = json.loads((folder / name).read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"checkpoint {folder.name!r}: {name} is not a JSON object")
    return content


def _regular_file_size(folder: Path, name: str) -> int:
    status = (folder / name).lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"checkpoint {folder.name!r}: {name} is not a regular file")
    return status.st_size


def has_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest, and so may be a checkpoint."""
    return os.path.lexists(folder / MANIFEST)


def sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk, so that they survive a power failure."""
    with opened(path) as descriptor:
        os.fsync(descriptor)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a file or folder, open for the duration of the context."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
