"""Find the family of a base, or of a model that is loaded. The only module that knows all families."""

import json
from pathlib import Path

from diffusers import DiffusionPipeline
from diffusers.models.modeling_utils import ModelMixin

from lora.base.family import Family
from lora.base.modulation import PrecomputedModulation
from lora.flux.family import FLUX1
from lora.flux2.family import FLUX2

FAMILIES = (FLUX1, FLUX2)
INDEX, CLASS = "model_index.json", "_class_name"


def family_of(base: Path) -> Family:
    """The family of the base in a folder in diffusers layout, by the class that its `model_index.json` names.

    Raises ValueError with one sentence that begins with the file if no family has this class or the file is damaged,
    and OSError if there is no such file.
    """
    file = base / INDEX
    try:
        named = json.loads(file.read_bytes())[CLASS]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} names no class: expected {_expected()}") from error
    for family in FAMILIES:
        if named in family.components.served_pipelines:
            return family
    raise ValueError(f"{file} has the class {named!r:.60}: expected {_expected()}")


def family_of_model(model: ModelMixin | DiffusionPipeline) -> Family:
    """The family of a transformer or a pipeline, by its class. Raises TypeError if it is of none."""
    for family in FAMILIES:
        if isinstance(model, (family.components.pipeline, family.components.transformer)):
            return family
    raise TypeError(f"{type(model).__name__} is of no family")


def precomputed_modulation(transformer: ModelMixin, *, batch_size: int) -> PrecomputedModulation:
    """The outputs of a transformer's modulation layers on the host, if it has any, for batches of at most `batch_size`
    samples."""
    layer_input = family_of_model(transformer).transformer.modulation_input
    return PrecomputedModulation(transformer, layer_input, batch_size=batch_size)


def _expected() -> str:
    return " or ".join(family.components.pipeline.__name__ for family in FAMILIES)
