"""Multiplies the tensors of a LoRA by the scaling in PEFT's settings, which its tensors do not have."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from weights.adapter_metadata import MODELS, TRANSFORMER, Adapter

PEFT_PREFIX = "base_model.model."  # of all tensors that PEFT's save_pretrained writes
# A tensor whose multiple is the same multiple of the layer's delta; a LoKr has either lokr_w1 or lokr_w1_a and _b
FOLDED = re.compile(
    r"(?P<layer>.+)\.(?:(?P<up>lora_B)(?:\.(?!weight$|bias$)[\w-]+)?(?:\.weight|(?P<bias>\.bias))?"
    r"|hada_w1_a(?:\.[\w-]+)?|lokr_w1(?:_a)?(?:\.[\w-]+)?)"
)
MATRIX_DIMENSIONS = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """The adapters of a file by model, and where they came from."""

    by_model: Mapping[str, Adapter]
    of_peft: Adapter | None  # from adapter_config.json: for all tensors with the prefix of PEFT

    def adapter(self, name: str) -> tuple[Adapter | None, str]:
        """The settings for a tensor or a layer, and its name without its model. A name without the prefix of a model
        belongs to the transformer."""
        if self.of_peft and name.startswith(PEFT_PREFIX):
            return self.of_peft, name.removeprefix(PEFT_PREFIX)
        first, _, rest = name.partition(".")
        model, name = (first, rest) if first in MODELS else (TRANSFORMER, name)
        return self.by_model.get(model), name.removeprefix(PEFT_PREFIX)


def is_of_peft(names: Mapping[str, Tensor]) -> bool:
    """Whether PEFT's save_pretrained wrote a file with these tensors."""
    return any(name.startswith(PEFT_PREFIX) for name in names)


def fold_alpha(tensors: Mapping[str, Tensor], settings: Settings) -> dict[str, Tensor]:
    """Multiply one factor of every delta, and the bias of every B, by its scaling, in fp32.

    Raises ValueError if the settings contradict the tensors; the message completes a sentence.
    """
    ranks = {
        match["layer"]: tensor.shape[1]
        for name, tensor in tensors.items()
        if (match := FOLDED.fullmatch(name)) and match["up"] and not match["bias"] and tensor.ndim >= MATRIX_DIMENSIONS
    }
    _refuse_dora_without_magnitudes(tensors, settings)
    scalings = {name: _scaling(name, ranks, settings) for name in tensors}
    if all(scaling == 1 for scaling in scalings.values()):
        return dict(tensors)
    if alpha := next((name for name in tensors if name.endswith(".alpha")), None):
        source = next(each.source for each in (settings.of_peft, *settings.by_model.values()) if each)
        raise ValueError(f"has an alpha in its {source} and another in {alpha}: expected one of them")
    return {
        name: tensor if scalings[name] == 1 else tensor.float() * scalings[name] for name, tensor in tensors.items()
    }


def _scaling(name: str, ranks: Mapping[str, int], settings: Settings) -> float:
    match = FOLDED.fullmatch(name)
    adapter, layer = settings.adapter(match["layer"]) if match else (None, "")
    if not match or adapter is None or (adapter.kind == "LORA") != bool(match["up"]):
        return 1.0
    return adapter.scaling(layer, ranks.get(match["layer"]))


def _refuse_dora_without_magnitudes(tensors: Mapping[str, Tensor], settings: Settings) -> None:
    doras = [each for each in (settings.of_peft, *settings.by_model.values()) if each and each.use_dora]
    if doras and not any("lora_magnitude_vector" in name or name.endswith(".dora_scale") for name in tensors):
        raise ValueError(
            f"is a DoRA, by use_dora in its {doras[0].source}, without a lora_magnitude_vector: expected one"
        )
