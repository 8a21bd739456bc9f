"""The embedded bases that the script builds: the family and the plan of each."""

from dataclasses import dataclass

from script.tiny_flux import flux1_autoencoder
from script.tiny_flux.family import Family
from script.tiny_flux.klein import autoencoder as klein_autoencoder
from script.tiny_flux.klein.networks import TinyFlux2
from script.tiny_flux.klein.report import klein_report
from script.tiny_flux.klein.tokenizer import build_tokenizer
from script.tiny_flux.networks import TinyFlux
from script.tiny_flux.plan import TINY_FLUX, TINY_FLUX2, Plan
from script.tiny_flux.report import report
from script.tiny_flux.saving import flux1_pipeline, klein_pipeline
from script.tiny_flux.tokenizers import build_tokenizers

FLUX1 = Family(
    untrained_autoencoder=flux1_autoencoder.untrained_autoencoder,
    kl_weight=flux1_autoencoder.KL_WEIGHT,
    set_statistics=flux1_autoencoder.set_statistics,
    untrained_networks=lambda: TinyFlux(build_tokenizers()),
    pipeline=flux1_pipeline,
    report=report,
)
KLEIN = Family(
    untrained_autoencoder=klein_autoencoder.untrained_autoencoder,
    kl_weight=klein_autoencoder.KL_WEIGHT,
    set_statistics=klein_autoencoder.set_statistics,
    untrained_networks=lambda: TinyFlux2(build_tokenizer()),
    pipeline=klein_pipeline,
    report=klein_report,
)


@dataclass(frozen=True, slots=True)
class Base:
    """What a base is built from."""

    family: Family
    plan: Plan


BASES = {"tiny-flux": Base(FLUX1, TINY_FLUX), "tiny-flux2": Base(KLEIN, TINY_FLUX2)}  # by its folder in weights/
