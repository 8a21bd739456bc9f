"""A remote LoRA becomes an open file: from the cache if its source need not be asked again, else from the network.

Who may have a file is for its source to say: what is in the cache is given to somebody new only after the source let
them in too, which costs one question and, if nothing changed, no download.
"""

from dataclasses import dataclass
from typing import BinaryIO

from weights.cache.store import Entry, Store
from weights.grammar.records import Remote
from weights.network.download import download
from weights.network.failures import NotFound
from weights.network.network import Network, Tokens
from weights.sources.access import Access, access_to
from weights.sources.finding import Found, find, readings


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that was fetched, and where it is in the cache."""

    file: BinaryIO
    sha256: str
    key: str


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Who is asked, with which tokens, and where files are kept."""

    network: Network
    tokens: Tokens
    store: Store

    def fetch(self, record: Remote) -> Fetched:
        """The file of a record; the caller closes it.

        Raises ValueError with the end of a sentence that begins with the reference, and OSError with one if the file
        cannot be kept.
        """
        *others, last = readings(record)
        missing: list[str] = []
        for reading in others:
            try:
                return self._fetch_or_remember(reading)
            except NotFound as error:
                missing.append(str(error))
        try:
            return self._fetch(last)
        except ValueError as error:
            raise ValueError("; it ".join([*missing, str(error)])) from error

    def forget(self, key: str) -> None:
        """Drop a file that turned out to be no LoRA, so that it is fetched anew the next time."""
        with self.store.locked(key) as entry:
            entry.forget()

    def _fetch_or_remember(self, record: Found) -> Fetched:
        """As _fetch; that the source has none is remembered for as long as a file is fresh."""
        access = access_to(record, self.tokens)
        with self.store.locked(access.key) as entry:
            if entry.is_known_missing(access.by):
                raise NotFound("was not found a moment ago on Replicate")
        try:
            return self._fetch(record)
        except NotFound:
            with self.store.locked(access.key) as entry:
                entry.miss(access.by)
            raise

    def _fetch(self, record: Found) -> Fetched:
        access = access_to(record, self.tokens)
        with self.store.locked(access.key) as entry:
            fresh = _if_fresh(entry, access)  # another process may have fetched it while this one waited
            return fresh or self._ask(record, access, entry)

    def _ask(self, record: Found, access: Access, entry: Entry) -> Fetched:
        held = entry.held()
        wanted = find(record, self.tokens, self.network)
        # the file that is there must be the one that the source means, as far as its sha256 tells
        known = held.etag if held and wanted.sha256 in {"", held.sha256} else ""
        new = download(wanted, entry.part, self.store.make_room, self.network, known=known)
        if new:
            entry.keep(new.sha256, new.size, new.etag, by=access.by)
        elif held:
            entry.grant_access(access.by, held)
        return _open(entry, access)


def _if_fresh(entry: Entry, access: Access) -> Fetched | None:
    held = entry.held()
    return _open(entry, access) if held and entry.has_access(access.by, held) else None


def _open(entry: Entry, access: Access) -> Fetched:
    held = entry.held()
    if held is None:
        raise OSError("it was deleted from the cache by somebody else")
    return Fetched(entry.open(held), held.sha256, access.key)
