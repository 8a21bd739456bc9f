"""The scaling of a LoRA whose file does not store it: the settings of PEFT, in the metadata that diffusers saves or in
the adapter_config.json that PEFT saves beside the file.

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
CONFIG = "adapter_config.json"
TRANSFORMER = "transformer"
MODELS = (TRANSFORMER, "text_encoder", "text_encoder_2")  # prefixes of the names of tensors and settings
LARGEST = 2**63  # upper bound of a rank and an alpha
LAYER = re.compile(r"\^?[\w.]+")  # PEFT allows any regular expression as a pattern; diffusers writes names
LONGEST_CONFIG = 2**20  # bytes
# The setting that holds alpha, by the kind of adapter; other kinds are no LoRA
ALPHAS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}
# `init_lora_weights` that subtract the initial LoRA from the base, so that the LoRA has a meaning only with that base
CHANGING_THE_BASE = ("pissa", "olora", "corda", "lora_ga")


@dataclass(frozen=True, slots=True)
class Adapter:
    """The rank and alpha of one model's LoRA. Patterns map names of layers, or the ends of names, to other values."""

    kind: str  # of ALPHAS
    rank: float
    alpha: float
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool  # rsLoRA (arXiv 2312.03732): alpha is divided by the square root of the rank
    use_dora: bool
    source: str  # of the settings, for errors

    def scaling(self, layer: str, rank: int | None) -> float:
        """Return the factor of a layer's delta: alpha / rank, or alpha / sqrt(rank) with rsLoRA.

        `layer` is the name of the layer without its model, `rank` its rank in the file, None if the file does not show
        it. Raises ValueError if the settings have another rank; the message completes a sentence.
        """
        expected = _value_of_layer(self.rank_pattern, layer, self.rank)
        if rank is not None and expected != rank:
            raise ValueError(
                f"has the rank {rank} at {layer} and {expected:g} in its {self.source}: expected one of them"
            )
        alpha = _value_of_layer(self.alpha_pattern, layer, self.alpha)
        return alpha / (math.sqrt(expected) if self.use_rslora else expected)


def read_adapters(metadata: Mapping[str, str]) -> dict[str, Adapter]:
    """Return the adapters by model from the metadata of a file; empty if the file has no such settings.

    Raises ValueError for settings that cannot be read; the message completes a sentence.
    """
    settings = _json_object(metadata.get(KEY, "{}"), KEY)
    return {model: adapter for model in MODELS if (adapter := _adapter(settings, KEY, prefix=f"{model}."))}


def read_adapter_config(config: str) -> Adapter:
    """Return the adapter that PEFT's adapter_config.json describes.

    `fan_in_fan_out` has no effect, as PEFT ignores it for the linear layers of FLUX. Raises ValueError for settings
    that cannot be read, and for a kind of adapter that is no LoRA; the message completes a sentence.
    """
    if len(config) > LONGEST_CONFIG:
        raise ValueError(f"has a {CONFIG} of {len(config):,} bytes: expected at most {LONGEST_CONFIG:,}")
    settings = _json_object(config, CONFIG)
    kind = str(settings.get("peft_type") or "LORA").upper()
    if kind not in ALPHAS:
        raise ValueError(
            f"is an adapter of the kind {reprlib.repr(kind)}, by its {CONFIG}: expected {', '.join(ALPHAS)}"
        )
    adapter = _adapter(settings, CONFIG, kind=kind)
    if adapter is None:
        raise ValueError(f"has no r and no {ALPHAS[kind]} in its {CONFIG}: expected both")
    return adapter


def _json_object(text: object, source: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)  # type: ignore[arg-type]  # any other type is a TypeError
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"has {source} that cannot be parsed: expected JSON") from error
    if not isinstance(settings, dict):
        raise ValueError(f"has {source} that cannot be parsed: expected settings by name")
    return settings


def _adapter(settings: Mapping[str, Any], source: str, *, prefix: str = "", kind: str = "LORA") -> Adapter | None:
    rank, alpha = f"{prefix}r", f"{prefix}{ALPHAS[kind]}"
    if rank not in settings and alpha not in settings:
        return None
    for name, present in ((rank, alpha), (alpha, rank)):
        if name not in settings:
            raise ValueError(f"has {present} in its {source} and no {name}: expected both")
    initial = str(settings.get(f"{prefix}init_lora_weights") or "").lower()
    if initial.startswith(CHANGING_THE_BASE):
        expected = "expected it converted with PEFT's path_initial_model_for_weight_conversion"
        raise ValueError(f"was trained on a changed base, by {initial[:20]!r} in its {source}: {expected}")
    return Adapter(
        kind,
        _number(rank, settings[rank], source),
        _number(alpha, settings[alpha], source),
        _pattern(f"{prefix}rank_pattern", settings, source),
        _pattern(f"{prefix}alpha_pattern", settings, source),
        bool(settings.get(f"{prefix}use_rslora")) and kind == "LORA",
        bool(settings.get(f"{prefix}use_dora")) and kind == "LORA",
        source,
    )


def _pattern(name: str, settings: Mapping[str, Any], source: str) -> dict[str, float]:
    pattern = settings.get(name) or {}
    if not isinstance(pattern, dict) or not all(LAYER.fullmatch(layer) for layer in pattern):
        raise ValueError(f"has a {name} in its {source} that cannot be read: expected numbers by names of layers")
    return {layer: _number(name, number, source) for layer, number in pattern.items()}


def _number(name: str, value: object, source: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < LARGEST:
        raise ValueError(f"has {reprlib.repr(value)} for {name} in its {source}: expected a number above 0")
    return value


def _value_of_layer(pattern: Mapping[str, float], layer: str, default: float) -> float:
    """Look a layer up as PEFT does: by ^ and its full name, else by the end of its name after a dot."""
    parts = layer.split(".")
    names = (f"^{layer}", *(".".join(parts[start:]) for start in range(len(parts))))
    return next((pattern[name] for name in names if name in pattern), default)
