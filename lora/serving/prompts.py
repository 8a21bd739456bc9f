"""Caches encoded prompts, because text encoders are expensive: T5 has a third as many weights as FLUX.1, Qwen3 as many
as FLUX.2 [klein]."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from diffusers import DiffusionPipeline

from lora.base.prompt import Prompt
from lora.families.registry import family_of_model
from lora.serving.request import Request

Encode = Callable[[str], Prompt]
MAX_PROMPTS = 32  # of 4 MB each for FLUX.1, of 8 for klein, of 13 for klein 9B


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """The encoded prompts of a request."""

    prompt: Prompt
    negative: Prompt | None  # None if guidance needs none


def encode_prompts(pipeline: DiffusionPipeline, request: Request, encode: Encode) -> EncodedPrompts:
    """Encode the prompt of a request, and its negative prompt if guidance needs one."""
    needs_negative = family_of_model(pipeline).sampling.needs_negative(pipeline, request.guidance_scale)
    return EncodedPrompts(encode(request.prompt), encode(request.negative_prompt) if needs_negative else None)


class Prompts:
    """Encodes prompts, and keeps the most recently used."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self._pipeline = pipeline
        self._encoded: OrderedDict[tuple[str, Hashable], Prompt] = OrderedDict()

    def encode(self, text: str, *, applied: Hashable) -> Prompt:
        """Return an encoded prompt; `applied` identifies the LoRAs that are applied to the text encoders."""
        key = text, applied
        if key not in self._encoded:
            self._encoded[key] = family_of_model(self._pipeline).text.encode(self._pipeline, text)
        self._encoded.move_to_end(key)
        while len(self._encoded) > MAX_PROMPTS:
            self._encoded.popitem(last=False)
        return self._encoded[key]
