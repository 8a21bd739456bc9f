"""Which LoRAs a request asks for, and how strongly. Knows names of inputs, not what the references mean."""

import re
from dataclasses import dataclass

from lora.checks import listing, number, text

WEAKEST, STRONGEST = -1.0, 3.0
MOST_LORAS = 16
LONGEST_REFERENCE = 150 * 2**20  # a data URI may be as long as what Cog lets in
TRAINED = "COG_WEIGHTS"  # where a trained version's own LoRA is named
SCALE = re.compile(r"\s*[-+]?(\d{1,2}(\.\d*)?|\.\d+)(e[-+]?\d{1,2})?", re.IGNORECASE)  # no version has so few digits


@dataclass(frozen=True, slots=True)
class RequestedLora:
    """One LoRA that was asked for."""

    reference: str
    scale: float
    named: str  # the input that it stood in, for errors


def wishes(
    *,
    lora_weights: str | None,
    replicate_weights: str | None,
    trained: str | None,
    lora_scale: float,
    extra_lora: str | None,
    extra_lora_scale: float,
    loras: list[str] | None,
) -> tuple[RequestedLora, ...]:
    """In the order of the inputs; `lora_weights` goes before `replicate_weights`, which Replicate fills by itself, and
    either before `trained`, the LoRA of a trained version.

    Each of `loras` is a reference, or reference:scale. Raises ValueError with one sentence that names the input.
    """
    mains = {"lora_weights": lora_weights, "replicate_weights": replicate_weights, TRAINED: trained}
    main = next((name for name, reference in mains.items() if _given(reference)), TRAINED)
    single = [
        (main, mains[main], _scale("lora_scale", lora_scale)),
        ("extra_lora", extra_lora, _scale("extra_lora_scale", extra_lora_scale)),
    ]
    found = [
        RequestedLora(text(name, reference, at_most=LONGEST_REFERENCE).strip(), scale, name)
        for name, reference, scale in single
        if _given(reference)
    ]
    entries = [] if loras is None else listing("loras", loras)
    listed = [_entry(f"loras[{place}]", entry) for place, entry in enumerate(entries) if _given(entry)]
    if len(listed) > MOST_LORAS:
        raise ValueError(f"loras holds {len(listed)} LoRAs: expected at most {MOST_LORAS}")
    return (*found, *listed)


def _given(reference: object) -> bool:
    """Blank text is nothing; anything else that is no text was given, and is refused as what it is."""
    return bool(reference.strip()) if isinstance(reference, str) else reference is not None


def _entry(name: str, entry: object) -> RequestedLora:
    typed = text(name, entry, at_most=LONGEST_REFERENCE).strip()
    reference, _, scale = typed.rpartition(":")
    if not reference or not SCALE.fullmatch(scale):
        return RequestedLora(typed, 1.0, name)
    return RequestedLora(reference.strip(), _scale(f"the scale of {name}", float(scale)), name)


def _scale(name: str, scale: float) -> float:
    return number(name, scale, at_least=WEAKEST, at_most=STRONGEST)
