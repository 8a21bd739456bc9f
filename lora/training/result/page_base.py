"""The base model as a report page shows it, with a program that uses the LoRA."""

from lora.publishing.usage import diffusers_program
from lora.reporting.contents import Base
from lora.training.result.known_bases import known_base
from lora.training.result.notice import notice


def page_base(base: str, *, family: str, trigger_word: str) -> Base:
    """The base of this name and family; the program takes the LoRA from the unpacked tar."""
    prompt = f"a photo of {trigger_word}" if trigger_word else "your prompt"
    known = known_base(base, family)
    return Base(known.usage.name, diffusers_program(known.usage, None, prompt), known.terms.licence, notice(base))
