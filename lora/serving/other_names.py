"""The names that other predictors have for the inputs of LoRAs: those of lucataco's and of FLUX.1 Kontext's.

Cog drops an input that a signature lacks, and the images are then generated without the LoRA.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lora.checks import check_list, check_text
from lora.serving.requested_loras import (
    LONGEST_REFERENCE,
    MAX_LORAS,
    RequestedLora,
    check_scale,
    is_given,
    requested_loras,
)

OWN_NAMES = ("lora_weights", "lora_scale", "extra_lora", "extra_lora_scale", "loras", "replicate_weights")
UNCHOSEN = 1.0  # the default of lora_scale
DEFAULT_SCALE = 0.8  # of each LoRA in hf_loras; the default of lucataco/flux-dev-multi-lora
BECAUSE = "expected only one of them, because they are two names of one input"


def loras_by_any_name(inputs: Mapping[str, Any], *, trained: str) -> tuple[RequestedLora, ...]:
    """Return the requested LoRAs, as `requested_loras` does, from inputs of any name.

    `hf_lora` is another name for `lora_weights`, and `lora_strength` for `lora_scale`, which counts as open if it is 1;
    the LoRAs of `hf_loras`, with their scales in `lora_scales`, come last. Raises ValueError with one sentence that
    names the input.
    """
    own = {name: inputs[name] for name in OWN_NAMES} | {"lora_scale": _scale(inputs)}
    other = inputs["hf_lora"]
    if is_given(other):
        _refuse_another(inputs["lora_weights"], other)
        own["lora_weights"] = check_text("hf_lora", other, at_most=LONGEST_REFERENCE)
    found = requested_loras(trained=trained, **own)
    named = [replace(each, named="hf_lora") if _is_other(each, inputs) else each for each in found]
    return (*named, *_listed(inputs["hf_loras"], inputs["lora_scales"]))


def _refuse_another(reference: object, other: str) -> None:
    """The error does not show the references, which may contain a signature."""
    if is_given(reference) and str(reference).strip() != str(other).strip():
        raise ValueError(f"lora_weights and hf_lora are both given and differ: {BECAUSE}")


def _is_other(lora: RequestedLora, inputs: Mapping[str, Any]) -> bool:
    return lora.named == "lora_weights" and not is_given(inputs["lora_weights"])


def _scale(inputs: Mapping[str, Any]) -> float:
    scale, other = check_scale("lora_scale", inputs["lora_scale"]), inputs["lora_strength"]
    if other is None:
        return scale
    strength = check_scale("lora_strength", other)
    if scale not in (UNCHOSEN, strength):
        raise ValueError(f"lora_scale is {scale:g} and lora_strength is {strength:g}: {BECAUSE}")
    return strength


def _listed(references: object, scales: object) -> list[RequestedLora]:
    """One scale is for all LoRAs, as in lucataco/flux-dev-multi-lora."""
    checked = [] if references is None else check_list("hf_loras", references)
    if len(checked) > MAX_LORAS:
        raise ValueError(f"hf_loras holds {len(checked)} LoRAs: expected at most {MAX_LORAS}")
    pairs = enumerate(zip(checked, _scales(scales, count=len(checked)), strict=True))
    return [_entry(f"hf_loras[{index}]", *pair) for index, pair in pairs if is_given(pair[0])]


def _entry(name: str, reference: object, scale: float) -> RequestedLora:
    return RequestedLora(check_text(name, reference, at_most=LONGEST_REFERENCE).strip(), scale, name)


def _scales(given: object, *, count: int) -> list[float]:
    scales = [] if given is None else check_list("lora_scales", given)
    checked = [check_scale(f"lora_scales[{index}]", scale) for index, scale in enumerate(scales)]
    if len(checked) <= 1:
        return (checked or [DEFAULT_SCALE]) * count
    if count and len(checked) != count:
        raise ValueError(
            f"lora_scales holds {len(checked)} scales for {count} LoRAs in hf_loras: expected one for each, or one"
        )
    return checked[:count]
