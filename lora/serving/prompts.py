"""Prompts that were encoded lately are not encoded again: T5 has as many weights as a third of the transformer."""

from collections import OrderedDict
from collections.abc import Hashable

from diffusers import FluxPipeline

from lora.flux.prompt import Prompt, encode_prompt

MOST_PROMPTS = 32  # of 4 MB each


class Prompts:
    """Encodes prompts, and remembers the latest."""

    def __init__(self, pipeline: FluxPipeline) -> None:
        self._pipeline = pipeline
        self._encoded: OrderedDict[tuple[str, Hashable], Prompt] = OrderedDict()

    def encode(self, text: str, *, worn: Hashable) -> Prompt:
        """A prompt, by encoders that wear `worn`: equal where they answer equally."""
        key = text, worn
        if key not in self._encoded:
            self._encoded[key] = encode_prompt(self._pipeline, text)
        self._encoded.move_to_end(key)
        while len(self._encoded) > MOST_PROMPTS:
            self._encoded.popitem(last=False)
        return self._encoded[key]
