"""Caches converted LoRAs, so that a LoRA is not read again for each request. Knows no file."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lora.formats.layer_names.flux1 import FLUX1
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


class LoraCache:
    """Keeps LoRAs by the digests of their files, and evicts the least recently used."""

    def __init__(self) -> None:
        self._cached: OrderedDict[str, CachedLora] = OrderedDict()
        self._digests: OrderedDict[str, str] = OrderedDict()  # by cache key, which is known before a file is read

    def lora(self, cache_key: str, read: Read) -> CachedLora:
        """Return the LoRA of a file; call `read` only if no LoRA with this cache key is cached.

        Raises ValueError with the end of a sentence if it is no LoRA for FLUX.1, and whatever `read` raises.
        """
        cached = self._cached.get(self._digests.get(cache_key, ""))
        if cached is None:
            digest, tensors, notes = read()
            cached = self._cached.get(digest) or CachedLora(digest, convert_lora(tensors, FLUX1), notes)
        self._store(cache_key, cached)
        return cached

    def _store(self, cache_key: str, cached: CachedLora) -> None:
        self._digests[cache_key], self._cached[cached.digest] = cached.digest, cached
        self._digests.move_to_end(cache_key)
        self._cached.move_to_end(cached.digest)
        while len(self._digests) > MAX_CACHE_KEYS:
            self._digests.popitem(last=False)
        while len(self._cached) > 1 and sum(map(_bytes, self._cached.values())) > MAX_BYTES:
            self._cached.popitem(last=False)


def _bytes(cached: CachedLora) -> int:
    of_layers = sum(tensor.nbytes for _, delta in deltas_by_layer(cached.lora) for tensor in delta.tensors)
    return of_layers + sum(vector.nbytes for _, vector in vectors_by_name(cached.lora))
