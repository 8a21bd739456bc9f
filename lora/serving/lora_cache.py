"""LoRAs that were worn lately, ready to be worn again. Knows no file."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lora.formats.reading import convert_lora
from lora.formats.weight_deltas import FluxLora
from lora.serving.compatibility import deltas_by_layer

MOST_BYTES = 4 * 2**30
MOST_STAMPS = 1000

Read = Callable[[], tuple[str, Mapping[str, Tensor]]]  # a file's digest and tensors


@dataclass(frozen=True, slots=True)
class Kept:
    """A LoRA in one layout."""

    digest: str  # of its file
    lora: FluxLora


class LoraCache:
    """Keeps LoRAs by the digest of their files, and lets go of those that were not asked for longest."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._digests: OrderedDict[str, str] = OrderedDict()  # by what files are known by before they are read

    def lora(self, stamp: str, read: Read) -> Kept:
        """The LoRA of a file, which is read only if none with this stamp is here.

        Raises ValueError with the end of a sentence if it is none of FLUX.1, and whatever `read` raises.
        """
        kept = self._kept.get(self._digests.get(stamp, ""))
        if kept is None:
            digest, tensors = read()
            kept = self._kept.get(digest) or Kept(digest, convert_lora(tensors))
        self._keep(stamp, kept)
        return kept

    def _keep(self, stamp: str, kept: Kept) -> None:
        self._digests[stamp], self._kept[kept.digest] = kept.digest, kept
        self._digests.move_to_end(stamp)
        self._kept.move_to_end(kept.digest)
        while len(self._digests) > MOST_STAMPS:
            self._digests.popitem(last=False)
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > MOST_BYTES:
            self._kept.popitem(last=False)


def _bytes(kept: Kept) -> int:
    return sum(tensor.nbytes for _, change in deltas_by_layer(kept.lora) for tensor in change.tensors)
