"""The presets of the base that a command is about, before it is known whether that base is on this machine."""

import os
from collections.abc import Mapping
from pathlib import Path

from lora.base.presets import Preset
from lora.flux.presets import PRESETS as OF_FLUX1
from lora.flux2.presets import PRESETS as OF_KLEIN
from weights.base_kind import FLUX1, KLEIN, BaseKind, kind_of
from weights.bases import SETTING
from weights.catalogue import DEFAULT, embedded, published

Presets = Mapping[str, Preset]  # by lora_type
PRESETS: Mapping[str, Presets] = {FLUX1.name: OF_FLUX1, KLEIN.name: OF_KLEIN}


def presets_of(base: str = "") -> Presets:
    """The presets for a value of FLUX_BASE; without one, for that of this process. A folder that is not there, or holds
    no base, has those of FLUX.1: a training would refuse it."""
    return PRESETS[_kind(base or os.environ.get(SETTING, "").strip() or DEFAULT).name]


def _kind(base: str) -> BaseKind:
    known = published(base) or embedded(base)
    if known is not None:
        return known.kind
    try:
        return kind_of(Path(base))
    except (OSError, ValueError):
        return FLUX1
