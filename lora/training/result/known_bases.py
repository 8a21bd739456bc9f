"""What a NOTICE, a model card and a report say of a base, by its name in config.yaml. Knows no file.

`weights/catalogue.py` has the same names for downloads, and a test holds both to each other: neither may import the
other.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePath

from lora.families.registry import FAMILIES
from lora.publishing.usage import BaseModel
from lora.training.result.terms import FLUX, FLUX1_DEV, UNOFFICIAL, NonCommercialLicence, Terms, apache, unknown

OWNER, BFL = "black-forest-labs", "Black Forest Labs"  # the first is its name on the Hub
FLUX1_PIPELINE, KLEIN_PIPELINE, ANY_PIPELINE = "FluxPipeline", "Flux2KleinPipeline", "DiffusionPipeline"
NO_GUIDANCE = 1.0  # the highest of a distilled base
SIZE = {"height": 128, "width": 128}  # pixels, which the embedded bases were trained with


@dataclass(frozen=True, slots=True)
class KnownBase:
    """A base, and the terms of LoRAs for it."""

    usage: BaseModel
    terms: Terms


def known_base(name: str, family: str = "") -> KnownBase:
    """The base of this name in config.yaml: one of `KNOWN`, or one of which only the name is known, as of a folder, and
    its family, with whose defaults it generates. The config.yaml of an older version has no family, though some of
    these trained klein, too: diffusers chooses the class then, and the defaults are those of FLUX.1."""
    return KNOWN.get(name) or _unpublished(PurePath(name).name, family)


def _unpublished(name: str, family: str) -> KnownBase:
    """A base that can be trained, so it takes guidance."""
    found = next((each for each in FAMILIES if each.name == family), None)
    pipeline = found.components.pipeline.__name__ if found else ANY_PIPELINE
    defaults = (found or FAMILIES[0]).sampling.defaults
    usage = BaseModel(
        f"the base model {name}", None, f"path/to/{name}", pipeline, defaults.steps, defaults.guidance, {}
    )
    return KnownBase(usage, unknown(name))


def trainable_bases(pipelines: Collection[str]) -> tuple[str, ...]:
    """The names of the bases that these pipelines run and that take guidance, as those that are trained do."""
    return tuple(
        name for name, base in KNOWN.items() if base.usage.pipeline in pipelines and base.usage.guidance > NO_GUIDANCE
    )


def _on_hub(
    name: str, repository: str, licence: NonCommercialLicence | None, pipeline: str, steps: int, guidance: float
) -> KnownBase:
    """A base of Black Forest Labs, under the Apache License 2.0 if `licence` is None. Steps and guidance are those of
    its model card."""
    repository = f"{OWNER}/{repository}"
    terms = licence.terms(repository) if licence else apache("by Black Forest Labs, Inc.", more=UNOFFICIAL)
    return KnownBase(BaseModel(name, repository, "", pipeline, steps, guidance, {}), terms)


def _embedded(name: str, folder: str, pipeline: str, guidance: float, arguments: dict[str, int]) -> KnownBase:
    """A base in weights/ of this project, with the steps of script/demo."""
    usage = BaseModel(name, None, f"weights/{folder}", pipeline, 20, guidance, arguments)
    return KnownBase(usage, apache("part of the trainer that made this LoRA"))


KNOWN = {
    "dev": _on_hub(f"FLUX.1 [dev] of {BFL}", "FLUX.1-dev", FLUX1_DEV, FLUX1_PIPELINE, 28, 3.5),
    "krea": _on_hub(f"FLUX.1 Krea [dev] of {BFL} and Krea", "FLUX.1-Krea-dev", FLUX1_DEV, FLUX1_PIPELINE, 28, 4.5),
    "schnell": _on_hub(f"FLUX.1 [schnell] of {BFL}", "FLUX.1-schnell", None, FLUX1_PIPELINE, 4, 0.0),
    "klein": _on_hub(f"FLUX.2 [klein] 4B Base of {BFL}", "FLUX.2-klein-base-4B", None, KLEIN_PIPELINE, 50, 4.0),
    "klein-9b": _on_hub(f"FLUX.2 [klein] 9B Base of {BFL}", "FLUX.2-klein-base-9B", FLUX, KLEIN_PIPELINE, 50, 4.0),
    "klein-distilled": _on_hub(f"FLUX.2 [klein] 4B of {BFL}", "FLUX.2-klein-4B", None, KLEIN_PIPELINE, 4, 1.0),
    "tiny": _embedded(
        "tiny-flux, the small model that the trainer brings along", "tiny-flux", FLUX1_PIPELINE, 3.5, SIZE
    ),
    "tiny-flux2": _embedded(
        "tiny-flux2, the small FLUX.2 [klein] that the trainer brings along",
        "tiny-flux2",
        KLEIN_PIPELINE,
        4.0,
        {**SIZE, "max_sequence_length": 48},  # model_max_length of its tokenizer; stock diffusers pads to 512
    ),
}
