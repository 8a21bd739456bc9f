"""The base model as a report page shows it, with a program that uses the LoRA."""

from lora.publishing.usage import diffusers_program
from lora.reporting.contents import Base
from lora.training.result.card import base_model
from lora.training.result.notice import licence, model, notice


def page_base(base: str, *, trigger_word: str) -> Base:
    """The base of this name; the program takes the LoRA from the unpacked tar."""
    prompt = f"a photo of {trigger_word}" if trigger_word else "your prompt"
    return Base(model(base), diffusers_program(base_model(base), None, prompt), licence(base), notice(base))
