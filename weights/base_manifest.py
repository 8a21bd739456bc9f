"""The manifest of a downloaded base: the sha256 of each file, and the fingerprint it had when that was checked last.

Lies beside the files, so that it comes along into an image and to another machine.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

from weights.base_files import MANIFEST
from weights.component_files import UNFINISHED
from weights.parallel import Progress, run_in_parallel

CHUNK_BYTES = 8 * 2**20
HASHERS = 4  # files that are hashed at a time; sha256 takes one core each
SHA256_DIGITS = 64
HUB_METADATA = Path(".cache/huggingface/download")  # where `hf download --local-dir` stores what the Hub says of files

LogLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """A file, and when its content was compared with its sha256."""

    path: str  # relative to the base, with slashes
    size: int  # bytes
    sha256: str
    mtime: int  # of the file when it was checked, in whole seconds, which survive a copy into an image; 0 if never

    def is_unchanged(self, folder: Path) -> bool:
        """Whether the file has the size and the time that it had when it was checked."""
        try:
            status = (folder / self.path).stat()
        except FileNotFoundError:
            return False
        return (status.st_size, int(status.st_mtime)) == (self.size, self.mtime)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of a base, and where they come from."""

    source: str  # such as hf://owner/name@commit; without secrets
    files: tuple[ManifestEntry, ...]


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a base; None if it has none, or if the file is no manifest."""
    try:
        return parse_manifest((folder / MANIFEST).read_bytes())
    except OSError:
        return None


def parse_manifest(content: bytes) -> Manifest | None:
    """Parse a manifest; None if it is none."""
    try:
        found = json.loads(content)
        files = tuple(ManifestEntry(**entry) for entry in found["files"])
        return Manifest(str(found["source"]), files) if all(map(_is_valid, files)) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest so that it is complete, old or new, whenever the process ends; raises OSError."""
    partial = folder / f"{MANIFEST}{UNFINISHED}"
    files = sorted(manifest.files, key=lambda entry: entry.path)
    content = {"source": manifest.source, "files": [asdict(entry) for entry in files]}
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / MANIFEST)


def is_complete(folder: Path) -> bool:
    """Whether a base was downloaded completely, and every file is there with its size."""
    manifest = read_manifest(folder)
    return manifest is not None and all(_size(folder / entry.path) == entry.size for entry in manifest.files)


def checked_entry(folder: Path, path: str, sha256: str) -> ManifestEntry:
    """Return the entry of a file whose content was just compared with its sha256."""
    status = (folder / path).stat()
    return ManifestEntry(path, status.st_size, sha256, int(status.st_mtime))


def check_digests(folder: Path, *, published: Sequence[Path], log_line: LogLine) -> None:
    """Compare the files of a base with the sha256 that their source published, once for every version of a file.

    The sha256 are those of the manifest or, for the files `published` of a base without one, those that `hf download`
    stores. A base without either is not checked, nor is a file that is missing. Raises ValueError, with a sentence
    that starts with the path of the file, for a file with another content.
    """
    manifest = read_manifest(folder) or _of_hub_metadata(folder, published)
    there = [entry for entry in manifest.files if (folder / entry.path).is_file()]
    changed = [entry for entry in there if not entry.is_unchanged(folder)]
    if not changed:
        return
    digests = hash_files(folder, [entry.path for entry in changed], log_line=log_line)
    for entry in changed:
        if digests[entry.path] != entry.sha256:
            found = f"found the sha256 {digests[entry.path][:12]}..., expected {entry.sha256[:12]}..."
            raise ValueError(f"{folder / entry.path} is damaged, or was replaced: {found} of {manifest.source}")
    checked = {entry.path: checked_entry(folder, entry.path, entry.sha256) for entry in changed}
    files = tuple(checked.get(entry.path, entry) for entry in manifest.files)
    with contextlib.suppress(OSError):  # in a folder that cannot be written to, the next start checks again
        write_manifest(Manifest(manifest.source, files), folder)


def hash_files(folder: Path, paths: Iterable[str], *, log_line: LogLine) -> dict[str, str]:
    """Return the sha256 of files by their paths; raises OSError."""
    sizes = {path: (folder / path).stat().st_size for path in paths}
    digests: dict[str, str] = {}
    progress = Progress(f"checking the sha256 of {folder.name}", sum(sizes.values()), log_line)

    def hash_file(path: str, stop: Event) -> None:
        digest, buffer = hashlib.sha256(), bytearray(CHUNK_BYTES)
        with (folder / path).open("rb", buffering=0) as file:
            while not stop.is_set() and (count := file.readinto(buffer)):
                digest.update(memoryview(buffer)[:count])
                progress.add(count)
        digests[path] = digest.hexdigest()

    run_in_parallel(
        hash_file, sorted(sizes, key=lambda path: -sizes[path]), workers=HASHERS, report_progress=progress.report
    )
    return digests


def _of_hub_metadata(folder: Path, published: Sequence[Path]) -> Manifest:
    """Return the sha256 of files as `hf download` stores them: the second line of three, for files in LFS."""
    entries = []
    for file in published:
        path = file.relative_to(folder).as_posix()
        try:
            lines = (folder / HUB_METADATA / f"{path}.metadata").read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            continue
        if len(lines) > 1 and len(lines[1]) == SHA256_DIGITS:
            entries.append(ManifestEntry(path, file.stat().st_size, lines[1].lower(), 0))
    return Manifest("Hugging Face, as hf download stored it", tuple(entries))


def _is_valid(entry: ManifestEntry) -> bool:
    texts, numbers = (entry.path, entry.sha256), (entry.size, entry.mtime)
    return all(isinstance(text, str) for text in texts) and all(isinstance(number, int) for number in numbers)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1
