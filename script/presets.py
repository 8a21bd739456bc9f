"""The presets of the base that a command is about, before it is known whether that base is on this machine."""

import os
from collections.abc import Mapping
from pathlib import Path

from lora.base.presets import Preset, chosen_preset
from lora.flux.presets import PRESETS as OF_FLUX1
from lora.flux2.presets import PRESETS as OF_KLEIN
from weights.base_kind import FLUX1, KLEIN, BaseKind, kind_of
from weights.bases import SETTING
from weights.catalogue import DEFAULT, EMBEDDED, TRAINABLE, embedded, published

Presets = Mapping[str, Preset]  # by lora_type
PRESETS: Mapping[str, Presets] = {FLUX1.name: OF_FLUX1, KLEIN.name: OF_KLEIN}


def presets_of(base: str = "") -> Presets:
    """The presets for a value of FLUX_BASE; without one, for that of this process. A folder that is not there, or holds
    no base, has those of FLUX.1: a training would refuse it."""
    return PRESETS[_kind(base or os.environ.get(SETTING, "").strip() or DEFAULT).name]


def preset_of(lora_type: str, base: str = "") -> Preset:
    """The preset for a kind of LoRA, for a base as in `presets_of`. Raises ValueError if its family has none."""
    name = base or os.environ.get(SETTING, "").strip() or DEFAULT
    kinds = [(each.name, each.kind) for each in TRAINABLE] + [(each.name, each.kind) for each in EMBEDDED]
    others = [name for name, kind in kinds if lora_type in PRESETS[kind.name]]
    return chosen_preset(presets_of(base), lora_type, base=name, others=others)


def _kind(base: str) -> BaseKind:
    known = published(base) or embedded(base)
    if known is not None:
        return known.kind
    try:
        return kind_of(Path(base))
    except (OSError, ValueError):
        return FLUX1
