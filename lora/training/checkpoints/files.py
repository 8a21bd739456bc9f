"""One checkpoint as a folder: written whole, and read only if it is whole. Knows named tensors and JSON, and nothing of
what they mean."""

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

Json = dict[str, Any]
Tensors = Mapping[str, Tensor]

FORMAT = 1
MANIFEST, STATE = "manifest.json", "state.json"
SUFFIX = ".tensors"  # safetensors by another name: clients take the one .safetensors of a tar for the LoRA
TENSOR_FILE = re.compile(r"[a-z][a-z0-9_]{0,63}\.tensors", re.ASCII)
IN_TAR = "resume"
BLOCK_BYTES = 8 * 2**20
MOST_JSON_BYTES, MOST_FILES = 16 * 2**20, 64


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a training saved at a step; every file was whole when it was read."""

    folder: Path
    step: int
    identity: Json  # of the training: what must be the same for another to go on from here
    values: Json
    names: tuple[str, ...]  # of its groups of tensors

    def tensors(self, name: str) -> dict[str, Tensor]:
        """One group of tensors, read into memory; raises ValueError if it is not there or is no safetensors file."""
        if name not in self.names:
            raise ValueError(f"checkpoint {self.folder.name!r} holds no {name}: expected {', '.join(self.names)}")
        try:
            return load_file(self.folder / f"{name}{SUFFIX}", backend="pread")
        except SafetensorError as error:
            raise ValueError(f"checkpoint {self.folder.name!r}: {name}{SUFFIX} holds no tensors ({error})") from error


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, whoever wrote it; raises ValueError with one sentence unless it is whole.

    Only plain files that the manifest names are read, JSON and safetensors, and never what a link leads to. Tensors may
    be anything: not finite, or not those of the training.
    """
    try:
        step, identity, files = _manifest(folder)
        for name, expected in files.items():
            _verify(folder, name, expected)
        names = tuple(name.removesuffix(SUFFIX) for name in files if name != STATE)
        return Checkpoint(folder, step, identity, _json(folder, STATE), names)
    except OSError as error:
        name = Path(error.filename or "").name
        raise ValueError(f"checkpoint {folder.name!r}: {name} cannot be read ({error.strerror})") from error


def packed(checkpoint: Checkpoint, *, folder: str) -> Iterator[tuple[str, Path]]:
    """Its files with the names that they have in a tar; that folder, taken out of the tar, is a checkpoint again."""
    for name in (MANIFEST, STATE, *(f"{name}{SUFFIX}" for name in checkpoint.names)):
        yield f"{IN_TAR}/{folder}/{name}", checkpoint.folder / name


def write_files(folder: Path, tensors: Mapping[str, Tensors], values: Json) -> None:
    """Write groups of tensors and JSON to a new folder, synced to disk; raises OSError if there is no room."""
    for name, group in tensors.items():
        path = folder / f"{name}{SUFFIX}"
        if not TENSOR_FILE.fullmatch(f"{name}{SUFFIX}"):
            raise ValueError(f"tensors are named {name!r}: expected a lower case word")
        # copies, as safetensors refuses tensors that share memory
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
    """Write the file that makes a checkpoint of a folder: it vouches for all others."""
    files = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, "step": step, "identity": identity, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    sync(folder / MANIFEST)
    sync(folder)


def _manifest(folder: Path) -> tuple[int, Json, Json]:
    """The step, the identity, and the size and sha256 of each file by its name."""
    manifest, whose = _json(folder, MANIFEST), f"checkpoint {folder.name!r}"
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{whose} is of format {shown(manifest.get('format'))}: expected {FORMAT}")
    step, identity, files = manifest.get("step"), manifest.get("identity"), manifest.get("files")
    if type(step) is not int or step < 0 or not isinstance(identity, dict) or not isinstance(files, dict):
        raise ValueError(f"{whose}: expected a step, an identity and files in its {MANIFEST}")
    if STATE not in files or len(files) > MOST_FILES:
        raise ValueError(f"{whose} has {len(files)} files: expected at most {MOST_FILES}, {STATE} among them")
    for name in files:
        if name != STATE and not TENSOR_FILE.fullmatch(name):
            raise ValueError(f"{whose} names a file {shown(name)}: expected names such as lora{SUFFIX}")
    return step, identity, files


def _verify(folder: Path, name: str, expected: object) -> None:
    """Raises ValueError unless a file is as the manifest says; its size first, so that nothing huge is read."""
    size = _plain_size(folder, name)
    wanted = expected.get("bytes") if isinstance(expected, dict) else None
    if size != wanted:
        raise ValueError(f"checkpoint {folder.name!r}: {name} has {size} bytes, expected {shown(wanted)}")
    if _digest(folder / name) != expected:
        raise ValueError(f"checkpoint {folder.name!r}: {name} has another sha256 than its manifest says")


def _digest(path: Path) -> Json:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _json(folder: Path, name: str) -> Json:
    if _plain_size(folder, name) > MOST_JSON_BYTES:
        raise ValueError(f"checkpoint {folder.name!r}: {name} has more than {MOST_JSON_BYTES} bytes")
    content = None
    with suppress(ValueError, RecursionError):
        content = json.loads((folder / name).read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"checkpoint {folder.name!r}: {name} is no table of names and values in JSON")
    return content


def _plain_size(folder: Path, name: str) -> int:
    status = (folder / name).lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"checkpoint {folder.name!r}: {name} is no plain file")
    return status.st_size


def has_manifest(folder: Path) -> bool:
    """Whether a folder may be a checkpoint."""
    return os.path.lexists(folder / MANIFEST)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power failure."""
    with opened(path) as descriptor:
        os.fsync(descriptor)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A file or folder that is open for as long as the context lasts."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
