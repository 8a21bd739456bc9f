"""The scaling of a LoRA whose file stores it only in metadata: the settings of PEFT that diffusers saves.

Knows no tensor.
"""

import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEY = "lora_adapter_metadata"  # where diffusers stores the LoraConfig of each model
TRANSFORMER = "transformer"
MODELS = (TRANSFORMER, "text_encoder", "text_encoder_2")  # prefixes of the names of tensors and settings
LARGEST = 2**63  # upper bound of a rank and an alpha
LAYER = re.compile(r"\^?[\w.]+")  # PEFT allows any regular expression as a pattern; diffusers writes names


@dataclass(frozen=True, slots=True)
class Adapter:
    """The rank and alpha of one model's LoRA. Patterns map names of layers, or the ends of names, to other values."""

    rank: float
    alpha: float
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool  # rsLoRA (arXiv 2312.03732): alpha is divided by the square root of the rank

    def scaling(self, layer: str, rank: int) -> float:
        """Return the factor by which B of a layer is multiplied: alpha / rank, or alpha / sqrt(rank) with rsLoRA.

        `layer` is the name of the layer without its model, `rank` its rank in the file. Raises ValueError if the
        metadata has another rank; the message completes a sentence.
        """
        expected = _value_of_layer(self.rank_pattern, layer, self.rank)
        if expected != rank:
            raise ValueError(f"has the rank {rank} at {layer} and {expected:g} in its {KEY}: expected one of them")
        return _value_of_layer(self.alpha_pattern, layer, self.alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def read_adapters(metadata: Mapping[str, str]) -> dict[str, Adapter]:
    """Return the adapters by model from the metadata of a file; empty if the file has no such settings.

    Raises ValueError for settings that cannot be read and for an unsupported kind of LoRA; the message completes a
    sentence.
    """
    try:
        settings = json.loads(metadata.get(KEY, "{}"))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"has {KEY} that cannot be parsed: expected JSON") from error
    if not isinstance(settings, dict):
        raise ValueError(f"has {KEY} that cannot be parsed: expected settings by name")
    return {model: adapter for model in MODELS if (adapter := _adapter(model, settings))}


def _adapter(model: str, settings: Mapping[str, Any]) -> Adapter | None:
    rank, alpha = (f"{model}.{name}" for name in ("r", "lora_alpha"))
    if settings.get(f"{model}.use_dora"):
        raise ValueError(f"is a DoRA, by {model}.use_dora in its {KEY}: expected a plain LoRA, a LoHa or a LoKr")
    if rank not in settings and alpha not in settings:
        return None
    for name, present in ((rank, alpha), (alpha, rank)):
        if name not in settings:
            raise ValueError(f"has {present} in its {KEY} and no {name}: expected both")
    return Adapter(
        _number(rank, settings[rank]),
        _number(alpha, settings[alpha]),
        _pattern(f"{model}.rank_pattern", settings),
        _pattern(f"{model}.alpha_pattern", settings),
        bool(settings.get(f"{model}.use_rslora")),
    )


def _pattern(name: str, settings: Mapping[str, Any]) -> dict[str, float]:
    pattern = settings.get(name) or {}
    if not isinstance(pattern, dict) or not all(LAYER.fullmatch(layer) for layer in pattern):
        raise ValueError(f"has a {name} in its {KEY} that cannot be read: expected numbers by names of layers")
    return {layer: _number(name, number) for layer, number in pattern.items()}


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < LARGEST:
        raise ValueError(f"has {reprlib.repr(value)} for {name} in its {KEY}: expected a number above 0")
    return value


def _value_of_layer(pattern: Mapping[str, float], layer: str, default: float) -> float:
    """Look a layer up as PEFT does: by ^ and its full name, else by the end of its name after a dot."""
    parts = layer.split(".")
    names = (f"^{layer}", *(".".join(parts[start:]) for start in range(len(parts))))
    return next((pattern[name] for name in names if name in pattern), default)
