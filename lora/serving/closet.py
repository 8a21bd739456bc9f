"""LoRAs that were worn lately, ready to be worn again. Knows no file."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor

from lora.flux.layouts.canonical import canonical
from lora.flux.layouts.record import FluxLora
from lora.serving.fitting import by_layer

MOST_BYTES = 4 * 2**30


class Closet:
    """Keeps LoRAs by the digest of their files, and lets go of those that were not asked for longest."""

    def __init__(self) -> None:
        self._loras: OrderedDict[str, FluxLora] = OrderedDict()

    def lora(self, digest: str, tensors: Mapping[str, Tensor]) -> FluxLora:
        """The LoRA of a file's tensors in one layout; raises ValueError with one sentence if it is none of FLUX.1."""
        if digest not in self._loras:
            try:
                self._loras[digest] = canonical(tensors)
            except ValueError as error:
                raise ValueError(f"the LoRA {error}") from error
        self._loras.move_to_end(digest)
        while len(self._loras) > 1 and sum(map(_bytes, self._loras.values())) > MOST_BYTES:
            self._loras.popitem(last=False)
        return self._loras[digest]


def _bytes(lora: FluxLora) -> int:
    return sum(pair.down.nbytes + pair.up.nbytes for _, pair in by_layer(lora))
