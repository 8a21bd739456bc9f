"""Which LoRAs a request asks for, and how strongly. Knows names of inputs, not what the references mean."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lora.checks import number, text

WEAKEST, STRONGEST = -1.0, 3.0
MOST_LORAS = 16
LONGEST_REFERENCE = 150 * 2**20  # a data URI may be as long as what Cog lets in
SCALE = re.compile(r"\s*[-+]?(\d{1,2}(\.\d*)?|\.\d+)(e[-+]?\d{1,2})?", re.IGNORECASE)  # no version has so few digits


@dataclass(frozen=True, slots=True)
class Wish:
    """One LoRA that was asked for."""

    reference: str
    scale: float
    named: str  # the input that it stood in, for errors


def wishes(
    *,
    lora_weights: str | None,
    replicate_weights: str | None,
    lora_scale: float,
    extra_lora: str | None,
    extra_lora_scale: float,
    loras: Sequence[str] | None,
) -> tuple[Wish, ...]:
    """In the order of the inputs; `lora_weights` goes before `replicate_weights`, which Replicate fills by itself.

    Each of `loras` is a reference, or reference:scale. Raises ValueError with one sentence that names the input.
    """
    main = ("lora_weights", lora_weights) if _given(lora_weights) else ("replicate_weights", replicate_weights)
    single = [(*main, "lora_scale", lora_scale), ("extra_lora", extra_lora, "extra_lora_scale", extra_lora_scale)]
    found = [
        Wish(text(name, reference, at_most=LONGEST_REFERENCE).strip(), _scale(scale_name, scale), name)
        for name, reference, scale_name, scale in single
        if _given(reference)
    ]
    listed = [_entry(f"loras[{place}]", entry) for place, entry in enumerate(loras or ()) if _given(entry)]
    if len(listed) > MOST_LORAS:
        raise ValueError(f"loras holds {len(listed)} LoRAs: expected at most {MOST_LORAS}")
    return (*found, *listed)


def _given(reference: str | None) -> bool:
    return bool(reference and str(reference).strip())


def _entry(name: str, entry: str) -> Wish:
    typed = text(name, entry, at_most=LONGEST_REFERENCE).strip()
    reference, _, scale = typed.rpartition(":")
    if not reference or not SCALE.fullmatch(scale):
        return Wish(typed, 1.0, name)
    return Wish(reference.strip(), _scale(f"the scale of {name}", float(scale)), name)


def _scale(name: str, scale: float) -> float:
    return number(name, scale, at_least=WEAKEST, at_most=STRONGEST)
