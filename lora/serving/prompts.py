"""Caches encoded prompts, because T5 is expensive: it has a third as many weights as the transformer."""

from collections import OrderedDict
from collections.abc import Hashable

from diffusers import FluxPipeline

from lora.flux.prompt import Prompt, encode_prompt

MAX_PROMPTS = 32  # of 4 MB each


class Prompts:
    """Encodes prompts, and keeps the most recently used."""

    def __init__(self, pipeline: FluxPipeline) -> None:
        self._pipeline = pipeline
        self._encoded: OrderedDict[tuple[str, Hashable], Prompt] = OrderedDict()

    def encode(self, text: str, *, applied: Hashable) -> Prompt:
        """Return an encoded prompt; `applied` identifies the LoRAs that are applied to the text encoders."""
        key = text, applied
        if key not in self._encoded:
            self._encoded[key] = encode_prompt(self._pipeline, text)
        self._encoded.move_to_end(key)
        while len(self._encoded) > MAX_PROMPTS:
            self._encoded.popitem(last=False)
        return self._encoded[key]
