"""The LoRAs that a request names, with their scales. Knows names of inputs, not what the references mean."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lora.checks import check_float, check_list, check_text

WEAKEST, STRONGEST = -1.0, 3.0
MAX_LORAS = 16
LONGEST_REFERENCE = 150 * 2**20  # characters; a data URI may be as long as the largest request that Cog accepts
TRAINED = "COG_WEIGHTS"  # names the LoRA of a trained version
SCALE = re.compile(r"\s*[-+]?(\d{1,2}(\.\d*)?|\.\d+)(e[-+]?\d{1,2})?", re.IGNORECASE)  # versions have more digits


@dataclass(frozen=True, slots=True)
class RequestedLora:
    """One LoRA that a request names."""

    reference: str
    scale: float
    named: str  # its input, for error messages


def requested_loras(
    *,
    lora_weights: str | None,
    replicate_weights: str | None,
    trained: str | None,
    lora_scale: float,
    extra_lora: str | None,
    extra_lora_scale: float,
    loras: list[str] | None,
) -> tuple[RequestedLora, ...]:
    """Return the requested LoRAs in the order of the inputs.

    `lora_weights` takes precedence over `replicate_weights`, which Replicate sets itself, and both over `trained`, the
    LoRA of a trained version. Each of `loras` is a reference, or reference:scale. Raises ValueError with one sentence
    that names the input.
    """
    mains = {"lora_weights": lora_weights, "replicate_weights": replicate_weights, TRAINED: trained}
    main = next((name for name, reference in mains.items() if is_given(reference)), TRAINED)
    single = [
        (main, mains[main], check_scale("lora_scale", lora_scale)),
        ("extra_lora", extra_lora, check_scale("extra_lora_scale", extra_lora_scale)),
    ]
    found = [
        RequestedLora(check_text(name, reference, at_most=LONGEST_REFERENCE).strip(), scale, name)
        for name, reference, scale in single
        if is_given(reference)
    ]
    entries = [] if loras is None else check_list("loras", loras)
    listed = [_entry(f"loras[{index}]", entry) for index, entry in enumerate(entries) if is_given(entry)]
    if len(listed) > MAX_LORAS:
        raise ValueError(f"loras holds {len(listed)} LoRAs: expected at most {MAX_LORAS}")
    return (*found, *listed)


def repetition_notes(loras: Iterable[RequestedLora]) -> Iterator[str]:
    """Yield one sentence for the log for each reference that is requested several times: its scales add up.

    black-forest-labs/flux-dev-lora ignores `extra_lora` then; versions trained on Replicate add it, too.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for lora in loras:
        names[lora.reference].append(lora.named)
    for repeated in names.values():
        if len(repeated) > 1:
            yield f"{' and '.join(repeated)} are the same LoRA, whose scales add up"


def is_given(reference: object) -> bool:
    """Whether a reference is given. Blank text is none; a value of another type is one, and is refused later."""
    return bool(reference.strip()) if isinstance(reference, str) else reference is not None


def _entry(name: str, entry: object) -> RequestedLora:
    typed = check_text(name, entry, at_most=LONGEST_REFERENCE).strip()
    reference, _, scale = typed.rpartition(":")
    if not reference or not SCALE.fullmatch(scale):
        return RequestedLora(typed, 1.0, name)
    return RequestedLora(reference.strip(), check_scale(f"the scale of {name}", float(scale)), name)


def check_scale(name: str, scale: object) -> float:
    """Return the scale of a LoRA; raises ValueError unless it is a number from -1 to 3."""
    return check_float(name, scale, at_least=WEAKEST, at_most=STRONGEST)
