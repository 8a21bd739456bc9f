"""How strong a LoRA is where only its metadata says so: the settings of PEFT that diffusers saves. Knows no tensor."""

import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEY = "lora_adapter_metadata"  # where diffusers keeps the whole LoraConfig of each model
TRANSFORMER = "transformer"
MODELS = (TRANSFORMER, "text_encoder", "text_encoder_2")  # whose names begin a tensor's, and a setting's
LARGEST = 2**63  # of a rank or an alpha
LAYER = re.compile(r"\^?[\w.]+")  # PEFT lets a pattern be any regular expression; diffusers writes names


@dataclass(frozen=True, slots=True)
class Adapter:
    """What one model's LoRA was trained with; layers of their own rank or alpha by their names or the ends of these."""

    rank: float
    alpha: float
    ranks: Mapping[str, float]
    alphas: Mapping[str, float]
    by_root: bool  # rsLoRA (arXiv 2312.03732): alpha is divided by the root of the rank

    def strength(self, layer: str, rank: int) -> float:
        """By which B of a layer, named without its model, is to be multiplied.

        Raises ValueError with the end of a sentence unless its rank in the file is the one that is given here.
        """
        given = _of_layer(self.ranks, layer, self.rank)
        if given != rank:
            raise ValueError(f"has the rank {rank} at {layer} and {given:g} in its {KEY}: expected one of them")
        return _of_layer(self.alphas, layer, self.alpha) / (math.sqrt(rank) if self.by_root else rank)


def read_adapters(metadata: Mapping[str, str]) -> dict[str, Adapter]:
    """By model, from the metadata of a file; none where it has no such settings.

    Raises ValueError with the end of a sentence for settings that cannot be read or make no LoRA that we know.
    """
    try:
        settings = json.loads(metadata.get(KEY, "{}"))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"has {KEY} that cannot be read: expected JSON") from error
    if not isinstance(settings, dict):
        raise ValueError(f"has {KEY} that cannot be read: expected settings by name")
    return {model: found for model in MODELS if (found := _adapter(model, settings))}


def _adapter(model: str, settings: Mapping[str, Any]) -> Adapter | None:
    rank, alpha = (f"{model}.{name}" for name in ("r", "lora_alpha"))
    if settings.get(f"{model}.use_dora"):
        raise ValueError(f"is a DoRA, by {model}.use_dora in its {KEY}: expected a plain LoRA, a LoHa or a LoKr")
    if rank not in settings and alpha not in settings:
        return None
    for name, other in ((rank, alpha), (alpha, rank)):
        if name not in settings:
            raise ValueError(f"has {other} in its {KEY} and no {name}: expected both")
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


def _of_layer(pattern: Mapping[str, float], layer: str, otherwise: float) -> float:
    """As PEFT looks it up: ^ and the whole name, or what the name ends in after a dot."""
    parts = layer.split(".")
    names = (f"^{layer}", *(".".join(parts[start:]) for start in range(len(parts))))
    return next((pattern[name] for name in names if name in pattern), otherwise)
