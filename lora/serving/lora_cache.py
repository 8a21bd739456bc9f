"""Caches converted LoRAs, so that a LoRA is not read again for each request. Knows no file."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lora.formats.layer_names.record import LayerNames
from lora.formats.reading import convert_lora
from lora.formats.weight_deltas import FluxLora
from lora.serving.compatibility import deltas_by_layer, vectors_by_name

MAX_BYTES = 4 * 2**30
MAX_CACHE_KEYS = 1000

# Returns a file's digest, its tensors, and what to log about how it was read.
Read = Callable[[], tuple[str, Mapping[str, Tensor], tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class CachedLora:
    """A converted LoRA, the digest of its file, and what to log about how it was read."""

    digest: str
    lora: FluxLora
    notes: tuple[str, ...]  # each is the end of a sentence


_Key = tuple[str, str]


class LoraCache:
    """Keeps LoRAs by the digests of their files, and evicts the least recently used."""

    def __init__(self) -> None:
        self._cached: OrderedDict[_Key, CachedLora] = OrderedDict()  # by family and digest
        self._digests: OrderedDict[_Key, str] = OrderedDict()  # by family and cache key, known before a file is read

    def lora(self, cache_key: str, read: Read, names: LayerNames) -> CachedLora:
        """Return the LoRA of a file for the family with these names; call `read` only if no LoRA with this cache key is
        cached for it.

        Raises ValueError with the end of a sentence if it is no LoRA for that family, and whatever `read` raises.
        """
        cached = self._cached.get((names.name, self._digests.get((names.name, cache_key), "")))
        if cached is None:
            digest, tensors, notes = read()
            known = self._cached.get((names.name, digest))
            cached = known or CachedLora(digest, convert_lora(tensors, names), notes)
        self._store((names.name, cache_key), (names.name, cached.digest), cached)
        return cached

    def _store(self, key: _Key, digest: _Key, cached: CachedLora) -> None:
        self._digests[key], self._cached[digest] = cached.digest, cached
        self._digests.move_to_end(key)
        self._cached.move_to_end(digest)
        while len(self._digests) > MAX_CACHE_KEYS:
            self._digests.popitem(last=False)
        while len(self._cached) > 1 and sum(map(_bytes, self._cached.values())) > MAX_BYTES:
            self._cached.popitem(last=False)


def _bytes(cached: CachedLora) -> int:
    of_layers = sum(tensor.nbytes for _, delta in deltas_by_layer(cached.lora) for tensor in delta.tensors)
    return of_layers + sum(vector.nbytes for _, vector in vectors_by_name(cached.lora))
