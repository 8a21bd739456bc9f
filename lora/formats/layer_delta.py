"""What form a layer's change has. Knows no names of layers."""

from collections.abc import Callable, Mapping

from lora.formats.decompositions.loha import loha_delta
from lora.formats.decompositions.lokr import lokr_delta
from lora.formats.decompositions.plain import plain_delta
from lora.formats.tensor_keys import Layer
from lora.formats.weight_deltas import Change

# By what the parts' names begin with.
FORMS: Mapping[str, Callable[[Layer], Change]] = {"lora": plain_delta, "hada": loha_delta, "lokr": lokr_delta}
# Why a layer with such a part is refused.
REFUSED = {
    "magnitude": "is a DoRA, which depends on the weights it is worn on: expected a plain LoRA, a LoHa or a LoKr",
    "convolution": "is for a convolution: expected linear layers, as FLUX.1 has no others",
}


def weight_delta_of(layer: Layer) -> Change:
    """Raises ValueError with the end of a sentence if a part is missing, does not fit or is of no form that we know."""
    for part, reason in REFUSED.items():
        if part in layer.parts:
            raise ValueError(f"holds {layer.parts[part].key} and {reason}")
    for addition in layer.additions:
        if addition.tensor.any():
            raise ValueError(f"holds {addition.key}, which is no product of two matrices: expected nothing else")
    forms = {part.split("_")[0] for part in layer.parts} - {"alpha"}
    if len(forms) != 1:
        found = " and ".join(sorted(forms)) or "nothing but an alpha"
        raise ValueError(f"holds {found} for {layer.name}: expected one of {', '.join(FORMS)}")
    return FORMS[forms.pop()](layer)
