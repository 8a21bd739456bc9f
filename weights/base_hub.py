"""Downloads a base from Hugging Face into a folder: only what is missing, four files at a time, each verified.

What an interrupted download has left is continued.
"""

from contextlib import closing
from pathlib import Path
from threading import Event

from weights.base_folder import Destination, FilePart, check_room
from weights.base_manifest import Manifest, ManifestEntry, checked_entry, hash_files
from weights.grammar.base_source import HubBase
from weights.network.failures import AccessDenied
from weights.network.stream import Changed, RemoteStream
from weights.parallel import Progress, run_in_parallel
from weights.printed import size_text
from weights.sources.hub_base import HubFile, HubListing, how_to_get_access, list_base

CONNECTIONS = 4  # at a time
MAX_RESTARTS = 2  # of one file from its first byte, after a change at the source


def fetch_from_hub(source: HubBase, destination: Destination) -> Manifest:
    """Download what the folder lacks, and return the manifest of the whole base.

    Raises ValueError, and OSError if the disk has too little space; the messages complete a sentence that starts with
    the reference. Configurations come first, so that a gate or another model is noticed before gigabytes are spent.
    """
    listing = list_base(source, destination.token, destination.network, destination.layout)
    destination.log_line(listing.line())
    entries = {entry.path: entry for entry in _verified(listing, destination)}
    missing = [file for file in listing.files if file.path not in entries]
    parts = sum(FilePart(destination.folder / file.path).size for file in missing)
    check_room(destination.folder, sum(file.size for file in missing) - parts)
    if missing:
        size, where = size_text(sum(file.size for file in missing) - parts), f"into {destination.folder}"
        destination.log_line(f"downloading {size} {where}; {len(entries)} of the large files are there already")
    download = _Download(
        destination, Progress(f"download of the {destination.layout.noun}", listing.bytes, destination.log_line)
    )
    download.progress.add(listing.bytes - sum(file.size for file in missing))
    try:
        small, large = [each for each in missing if not each.sha256], [each for each in missing if each.sha256]
        entries |= download.fetch(small)
        destination.layout.check_config(destination.folder)
        entries |= download.fetch(sorted(large, key=lambda file: -file.size))
    except AccessDenied as error:
        raise AccessDenied(f"{error}; {how_to_get_access(source.repository)}") from error
    return Manifest(f"hf://{listing.repository}@{listing.commit}", tuple(entries.values()))


def _verified(listing: HubListing, destination: Destination) -> list[ManifestEntry]:
    """Return the entries of the files that are there with the right content; all of them are hashed."""
    folder = destination.folder
    there = [each for each in listing.files if _size(folder / each.path) == each.size and each.sha256]
    digests = hash_files(folder, [each.path for each in there], log_line=destination.log_line)
    return [checked_entry(folder, each.path, each.sha256) for each in there if digests[each.path] == each.sha256]


class _Download:
    """Downloads files of one repository side by side."""

    def __init__(self, destination: Destination, progress: Progress) -> None:
        self.destination, self.progress = destination, progress
        self._entries: dict[str, ManifestEntry] = {}

    def fetch(self, files: list[HubFile]) -> dict[str, ManifestEntry]:
        """Download files, and return their entries by path."""
        self._entries = {}
        run_in_parallel(self._fetch_file, files, workers=CONNECTIONS, report_progress=self.progress.report)
        return self._entries

    def _fetch_file(self, file: HubFile, stop: Event) -> None:
        part = FilePart(self.destination.folder / file.path)
        if part.size > file.size:
            part.remove()
        for restarts_left in range(MAX_RESTARTS, -1, -1):
            begun = part.size
            try:
                sha256 = self._receive(file, part, stop)
            except (Changed, _WrongContent) as error:
                if stop.is_set():
                    return  # another process may continue this part by now
                part.remove()
                if not restarts_left or not (begun or isinstance(error, Changed)):
                    raise
            else:
                break
        if not stop.is_set():
            part.finish()
            self._entries[file.path] = checked_entry(self.destination.folder, file.path, sha256)

    def _receive(self, file: HubFile, part: FilePart, stop: Event) -> str:
        """Download a file from the end of its part on, and return its sha256, which is that at the Hub."""
        stream = RemoteStream(file.request, self.destination.network, part.size, part.validator)
        self.progress.add(part.size)
        try:
            with closing(stream), part.open() as opened:
                digest = part.digest(stop)
                while stream.offset < file.size and (chunk := self._next(file, part, stream, stop)):
                    opened.write(chunk)
                    opened.flush()  # nothing may be left to write once another process has the lock
                    digest.update(chunk)
                    self.progress.add(len(chunk))
            if not stop.is_set():
                _check_size(file, stream.offset)
                _check_digest(file, digest.hexdigest())
        except (Changed, _WrongContent):
            self.progress.add(-stream.offset)
            raise
        return digest.hexdigest()

    def _next(self, file: HubFile, part: FilePart, stream: RemoteStream, stop: Event) -> bytes:
        """Return the next bytes of a file; none at its end and once `stop` is set."""
        if stop.is_set():
            return b""
        stream.open()
        _check_size(file, stream.total)
        if not stream.offset and not stop.is_set():
            part.begin(stream.validator)
        chunk = stream.read()
        return b"" if stop.is_set() else chunk


class _WrongContent(ValueError):  # noqa: N818 - about what came, not about this program
    """A file that came completely is not the one that the Hub has."""


def _check_size(file: HubFile, found: int | None) -> None:
    if found not in {None, file.size}:
        raise _WrongContent(f"arrived with {found:,} bytes of {file.path}: expected {file.size:,}")


def _check_digest(file: HubFile, found: str) -> None:
    if file.sha256 and found != file.sha256:
        what = f"the sha256 {found[:12]}... of {file.path}"
        raise _WrongContent(f"arrived with {what}, but its source says {file.sha256[:12]}...")


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1
