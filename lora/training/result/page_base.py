"""The base model as a report page shows it, with a program that uses the LoRA."""

from lora.publishing.usage import diffusers_program
from lora.reporting.contents import Base, example_prompt
from lora.training.result.known_bases import known_base
from lora.training.result.notice import notice


def page_base(base: str, *, family: str, trigger_word: str, edits: bool) -> Base:
    """The base of this name and family; the program takes the LoRA from the unpacked tar, and the image to edit if it
    `edits`."""
    prompt, known = example_prompt(trigger_word, edits=edits), known_base(base, family)
    program = diffusers_program(known.usage, None, prompt, edits=edits)
    return Base(known.usage.name, program, known.terms.licence, notice(base))
