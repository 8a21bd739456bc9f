"""Fetch a remote LoRA: from the cache if it is fresh there, else from its source.

The source decides who may have a file. The cache serves a file for a new credential only after the source accepted that
credential too, which takes one request and, if the file is unchanged, no download.
"""

import json
from dataclasses import dataclass, replace
from typing import BinaryIO

from weights.cache.store import Entry, Store
from weights.grammar.records import Remote
from weights.network.download import download
from weights.network.failures import NotFound
from weights.network.json_response import fetch_json
from weights.network.network import Network, Tokens
from weights.sources.access import Access, access_to
from weights.sources.finding import KnownSource, find_file, possible_sources


@dataclass(frozen=True, slots=True)
class Fetched:
    """A fetched file, open, and its key in the cache."""

    file: BinaryIO
    sha256: str
    key: str
    config: str  # text of PEFT's settings beside it; may be empty
    note: str  # what to log if it was chosen among several


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches files over a network, with the user's tokens, into a cache."""

    network: Network
    tokens: Tokens
    store: Store

    def fetch(self, record: Remote) -> Fetched:
        """Return the file of a record, which the caller must close.

        Raises ValueError, and OSError if the file cannot be written. The messages complete a sentence that starts with
        the reference.
        """
        *others, last = possible_sources(record)
        missing: list[str] = []
        for possible in others:
            try:
                return self._fetch_or_record_missing(possible)
            except NotFound as error:
                missing.append(str(error))
        try:
            return self._fetch(last)
        except ValueError as error:
            raise ValueError("; it ".join([*missing, str(error)])) from error

    def remove(self, key: str) -> None:
        """Remove a file that is not a LoRA, so that the next request downloads it again."""
        with self.store.locked(key) as entry:
            entry.remove()

    def _fetch_or_record_missing(self, record: KnownSource) -> Fetched:
        """Like _fetch, but remember a missing file for as long as a cached file is fresh."""
        access = access_to(record, self.tokens)
        with self.store.locked(access.key) as entry:
            if entry.is_known_missing(access.credential):
                raise NotFound("was not found a moment ago on Replicate")
        try:
            return self._fetch(record)
        except NotFound:
            with self.store.locked(access.key) as entry:
                entry.record_missing(access.credential)
            raise

    def _fetch(self, record: KnownSource) -> Fetched:
        access = access_to(record, self.tokens)
        with self.store.locked(access.key) as entry:
            opened = _open_if_fresh(entry, access)  # another process may have downloaded it in the meantime
            return opened or self._download(record, access, entry)

    def _download(self, record: KnownSource, access: Access, entry: Entry) -> Fetched:
        cached = entry.cached_file()
        remote_file = find_file(record, self.tokens, self.network)
        # the cached file must be the one at the source, if the source publishes a sha256
        known_etag = cached.etag if cached and remote_file.sha256 in {"", cached.sha256} else ""
        config = json.dumps(fetch_json(remote_file.config, self.network)) if remote_file.config else ""
        new = download(remote_file, entry.partial, self.store.make_room, self.network, known_etag=known_etag)
        if new:
            credential, note = access.credential, remote_file.note
            entry.commit(new.sha256, new.size, new.etag, credential=credential, settings=config, note=note)
        elif cached:
            entry.grant_access(access.credential, replace(cached, settings=config, note=remote_file.note))
        return _open(entry, access)


def _open_if_fresh(entry: Entry, access: Access) -> Fetched | None:
    cached = entry.cached_file()
    return _open(entry, access) if cached and entry.has_access(access.credential, cached) else None


def _open(entry: Entry, access: Access) -> Fetched:
    cached = entry.cached_file()
    if cached is None:
        raise OSError("another process deleted it from the cache")
    return Fetched(entry.open(cached), cached.sha256, access.key, cached.settings, cached.note)
