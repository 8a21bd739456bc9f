"""Downloads a base from a tar at a URL into a folder: the tar is read as it arrives and is never stored.

Only files of the diffusers layout are written, under names of ours. A download that was interrupted continues with the
member that was cut off, if the server can send a part of the tar.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from weights.base_files import MANIFEST, is_layout_file
from weights.base_folder import Destination, FilePart, check_room
from weights.base_kind import INDEX, check_kind
from weights.base_manifest import Manifest, ManifestEntry, checked_entry, parse_manifest
from weights.component_files import UNFINISHED
from weights.grammar.base_source import TarBase
from weights.network.client import HttpRequest
from weights.network.stream import Changed, RemoteStream
from weights.parallel import Progress
from weights.printed import quoted, size_text
from weights.tar_stream import GZIP, RefusedTar, open_tar, unpacked

MAX_MEMBERS = 10_000
MAX_BYTES = 100 * 2**30  # of all members together; FLUX.1-dev has 34 GB
STATE = f"tar{UNFINISHED}"  # what an interrupted download has finished
CHUNK_BYTES = 2**20
COMPONENT_DEPTH = 2  # of a file in the folder of a component
MAX_TEXTS, MAX_TEXT_BYTES = 20, 2**20
MAX_RESTARTS = 2  # from the first byte, after a change at the source


def fetch_tar(source: TarBase, destination: Destination) -> Manifest:
    """Download the base in a tar, and return its manifest.

    Raises ValueError, and OSError if the disk has too little space; the messages complete a sentence that starts with
    the reference.
    """
    for restarts_left in range(MAX_RESTARTS, -1, -1):
        try:
            entries = _Download(source, destination).run()
            break
        except Changed:
            (destination.folder / STATE).unlink(missing_ok=True)
            if not restarts_left:
                raise
    (destination.folder / STATE).unlink(missing_ok=True)
    return Manifest(str(source), tuple(entries.values()))


@dataclass(slots=True)
class _State:
    """How far a download has come: the start of the member after the last finished one, and the finished files."""

    offset: int = 0
    validator: str = ""
    total: int | None = None
    files: dict[str, ManifestEntry] = field(default_factory=dict)
    root: str | None = None  # the folder of the tar that holds the base
    texts: dict[str, str] = field(default_factory=dict)  # licences and the like by path in the tar; bytes as Latin-1

    @classmethod
    def read(cls, folder: Path) -> "_State":
        """Return the state that is stored, or one at the beginning."""
        try:
            found = json.loads((folder / STATE).read_text(encoding="utf-8"))
            files = {path: ManifestEntry(**entry) for path, entry in found["files"].items()}
            state = cls(**{**found, "files": files})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()
        is_usable = state.validator and (state.total is None or state.offset < state.total)
        return state if is_usable and all(entry.is_unchanged(folder) for entry in files.values()) else cls()

    def write(self, folder: Path) -> None:
        """Store the state."""
        partial = folder / f"{STATE}.new"
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        partial.replace(folder / STATE)


class _Download:
    """Reads one tar from a server."""

    def __init__(self, source: TarBase, destination: Destination) -> None:
        self.source, self.folder = source, destination.folder
        self.state = _State() if source.sha256 else _State.read(self.folder)  # a digest is of all bytes, in order
        self.log_line = destination.log_line
        token = destination.token if source.url.startswith(f"{destination.network.hugging_face}/") else ""
        request, state = HttpRequest(source.url, token=token), self.state
        self.stream = RemoteStream(request, destination.network, state.offset, state.validator, state.total)
        self.promised: dict[str, str] = {}  # sha256 by path, from the manifest in the tar
        self.arriving = _Arriving(self.stream, is_hashed=bool(source.sha256))

    def run(self) -> dict[str, ManifestEntry]:
        """Write all files of the base, and return their entries by path."""
        begun, start = self.state.offset, b""
        with closing(self.stream):
            self._open()
            while len(start) < len(GZIP) and (chunk := self.arriving.read(len(GZIP) - len(start))):
                start += chunk
            is_plain = not start.startswith(GZIP)
            try:
                with open_tar(unpacked(self.arriving, start)) as tar:
                    self._write_members(tar, begun=begun, is_plain=is_plain)
            except (ValueError, OSError):
                if self.arriving.failure:
                    raise self.arriving.failure from None
                raise
            while self.arriving.read(CHUNK_BYTES):
                pass
        self._write_texts()
        self._check_whole()
        return self.state.files

    def _open(self) -> None:
        self.stream.open()
        total, begun = self.stream.total, self.state.offset
        if total is not None:
            _check_bytes(total)
            check_room(self.folder, total - begun)
            self.log_line(f"downloading {size_text(total - begun)} into {self.folder}")
        self.arriving.progress = Progress("download of the base", total, self.log_line, done=begun)
        self.state.validator, self.state.total = self.stream.validator, total

    def _write_members(self, tar: tarfile.TarFile, *, begun: int, is_plain: bool) -> None:
        for member in _members(tar):
            root, path = _place(member.name)
            file = tar.extractfile(member) if path and member.isreg() else None
            if file is None:
                continue
            if _is_text(path):
                self._keep_text(f"{root}/{path}", file.read(min(member.size, MAX_TEXT_BYTES)))
            elif self._is_root(root):
                self.state.files[path] = self._write(path, member.size, file)
                if path.endswith(".json"):
                    self._check_kind()
            if is_plain:
                self.state.offset = begun + member.offset_data + _blocks(member.size)
                self.state.write(self.folder)

    def _is_root(self, root: str) -> bool:
        """Whether a folder of the tar is the one with the base: the first with a file that only a base has."""
        if self.state.root is None:
            self.state.root = root
        return root == self.state.root

    def _keep_text(self, path: str, content: bytes) -> None:
        """Keep a text until the end: it may come before anything tells which folder holds the base."""
        if len(self.state.texts) < MAX_TEXTS:
            self.state.texts[path] = content.decode("latin-1")

    def _write_texts(self) -> None:
        for path, text in self.state.texts.items():
            root, _, name = path.rpartition("/")
            content = text.encode("latin-1")
            if root == self.state.root and name == MANIFEST:
                self.promised = _promises(content)
            elif root == self.state.root:
                self.state.files[name] = self._write(name, len(content), io.BytesIO(content))

    def _write(self, path: str, size: int, file: IO[bytes]) -> ManifestEntry:
        check_room(self.folder, size)
        part, digest, left = FilePart(self.folder / path), hashlib.sha256(), size
        part.remove()
        with part.open() as opened:
            while left:
                chunk = file.read(min(left, CHUNK_BYTES))
                if not chunk:
                    raise RefusedTar(f"is a damaged tar: {quoted(path)} ends {left:,} bytes too early")
                opened.write(chunk)
                digest.update(chunk)
                left -= len(chunk)
        part.finish()
        return checked_entry(self.folder, path, digest.hexdigest())

    def _check_kind(self) -> None:
        try:
            check_kind(self.folder)
        except ValueError as error:
            raise RefusedTar(f"holds no base that can be used: {error}") from error

    def _check_whole(self) -> None:
        """Compare with the sha256 in the reference, and with the manifest that the tar brings along."""
        found, expected = self.arriving.digest.hexdigest(), self.source.sha256
        if expected and found != expected:
            raise ValueError(f"arrived with the sha256 {found[:12]}..., but its reference says {expected[:12]}...")
        if INDEX not in self.state.files:
            raise ValueError(f"is a tar without {INDEX}: expected a folder in diffusers layout")
        for path, sha256 in self.promised.items():
            entry = self.state.files.get(path)
            if entry is None or entry.sha256 != sha256:
                raise ValueError(
                    f"is a tar whose {quoted(path)} is not what its {MANIFEST} says: expected the same file"
                )


def _place(name: str) -> tuple[str, str]:
    """Split the name of a member into a folder and the path of a file of a base in it; empty if it is none."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    for depth in (COMPONENT_DEPTH, 1):
        path = "/".join(parts[-depth:])
        if len(parts) >= depth and (is_layout_file(path) or path == MANIFEST):
            return "/".join(parts[:-depth]), path
    return "", ""


def _is_text(path: str) -> bool:
    """Whether a file may lie beside anything: a licence, a list of prompts, a manifest."""
    return "/" not in path and path != INDEX


def _promises(content: bytes) -> dict[str, str]:
    manifest = parse_manifest(content)
    return {entry.path: entry.sha256 for entry in manifest.files} if manifest else {}


class _Arriving:
    """The bytes of a stream as tarfile reads them; counts and hashes them, and remembers the error that ended them."""

    def __init__(self, stream: RemoteStream, *, is_hashed: bool) -> None:
        self.stream, self.is_hashed, self.digest = stream, is_hashed, hashlib.sha256()
        self.progress: Progress | None = None
        self.failure: ValueError | OSError | None = None

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        try:
            chunk = self.stream.read(size)
            _check_bytes(self.stream.offset)
        except (ValueError, OSError) as error:
            self.failure = error
            raise
        if self.is_hashed:
            self.digest.update(chunk)
        if self.progress:
            self.progress.add(len(chunk))
            self.progress.report()
        return chunk


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    total = 0
    for count, member in enumerate(tar, start=1):
        total += max(member.size, 0)
        if count > MAX_MEMBERS:
            raise RefusedTar(f"is a tar with more than {MAX_MEMBERS:,} files: expected a base in diffusers layout")
        if total > MAX_BYTES or member.size < 0:
            raise RefusedTar(f"is a tar with {total:,} bytes or more: expected at most {MAX_BYTES:,}")
        yield member


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"has {size:,} bytes or more: expected at most {MAX_BYTES:,}")


def _blocks(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
