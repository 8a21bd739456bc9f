"""What the page shows of its base model, and the settings that it has only with some. Loads no weights."""

from dataclasses import dataclass

from lora.base.family import SamplingDefaults
from lora.families.registry import family_of
from weights.bases import Base, model_of, takes_guidance


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSettings:
    """The base model of a page."""

    name: str  # of FLUX_BASE
    model: str  # such as FLUX.2 [klein] 4B
    defaults: SamplingDefaults
    takes_guidance: bool  # a distilled base does not
    takes_negative: bool  # a negative prompt


def base_settings(base: Base) -> BaseSettings:
    """The settings of a base whose files were checked."""
    family, is_guided = family_of(base.path), takes_guidance(base)
    return BaseSettings(
        name=base.name,
        model=model_of(base),
        defaults=family.sampling.defaults_of(takes_guidance=is_guided),
        takes_guidance=is_guided,
        takes_negative=is_guided and family.text.has_negative,
    )
