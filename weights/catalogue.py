"""The table of the base models that FLUX_BASE knows by name: where they come from, and under which licence.

Knows no file of this machine.
"""

from dataclasses import dataclass

from weights.base_kind import FLUX1, KLEIN, BaseKind

BFL = "black-forest-labs"
APACHE = "Apache-2.0"
NON_COMMERCIAL_1 = "flux-1-dev-non-commercial-license"  # the names of both on Hugging Face
NON_COMMERCIAL_2 = "flux-non-commercial-license"
DEFAULT = "dev"


@dataclass(frozen=True, slots=True)
class PublishedBase:
    """A base on Hugging Face. Its folder in weights/ has its name."""

    name: str  # of FLUX_BASE, and of the input `model`
    repository: str
    licence: str  # of the base and of LoRAs for it
    kind: BaseKind
    is_gated: bool  # whether only accounts that have accepted the licence can download it
    takes_guidance: bool  # a base that does not is distilled: it generates, and is not trained

    @property
    def remedy(self) -> str:
        """How to get it."""
        download = f"run `script/download {self.name}`"
        return f"accept the licence at huggingface.co/{self.repository}, then {download}" if self.is_gated else download

    @property
    def terms(self) -> str:
        """What a person should know before the download, in a few words."""
        account = "needs an account that has accepted its licence" if self.is_gated else "needs no account"
        return f"{self.repository}, {self.licence}, {account}{'' if self.takes_guidance else '; serving only'}"


@dataclass(frozen=True, slots=True)
class EmbeddedBase:
    """A base that is a part of this project: small, trained on procedural pictures. Its licence is the project's."""

    name: str  # of FLUX_BASE
    folder: str  # in weights/
    kind: BaseKind
    remedy: str  # how to get a missing file


# Licences and gates as of 2026 on the pages of these repositories; github.com/black-forest-labs/flux2 lists FLUX.2's.
PUBLISHED = (
    PublishedBase("dev", f"{BFL}/FLUX.1-dev", NON_COMMERCIAL_1, FLUX1, is_gated=True, takes_guidance=True),
    PublishedBase("krea", f"{BFL}/FLUX.1-Krea-dev", NON_COMMERCIAL_1, FLUX1, is_gated=True, takes_guidance=True),
    PublishedBase("schnell", f"{BFL}/FLUX.1-schnell", APACHE, FLUX1, is_gated=True, takes_guidance=False),
    PublishedBase("klein", f"{BFL}/FLUX.2-klein-base-4B", APACHE, KLEIN, is_gated=False, takes_guidance=True),
    PublishedBase(
        "klein-9b", f"{BFL}/FLUX.2-klein-base-9B", NON_COMMERCIAL_2, KLEIN, is_gated=True, takes_guidance=True
    ),
    PublishedBase("klein-distilled", f"{BFL}/FLUX.2-klein-4B", APACHE, KLEIN, is_gated=False, takes_guidance=False),
)
EMBEDDED = (
    EmbeddedBase("tiny", "tiny-flux", FLUX1, "run script/build-tiny-flux"),
    EmbeddedBase("tiny-flux2", "tiny-flux2", KLEIN, "run script/build-tiny-flux --base tiny-flux2"),
)
TINY = EMBEDDED[0].name
NAMES = tuple(base.name for base in (*PUBLISHED, *EMBEDDED))
TRAINABLE = tuple(base for base in PUBLISHED if base.takes_guidance)


def published(name: str) -> PublishedBase | None:
    """Return the published base of this name."""
    return next((base for base in PUBLISHED if base.name == name), None)


def embedded(name: str) -> EmbeddedBase | None:
    """Return the embedded base of this name."""
    return next((base for base in EMBEDDED if base.name == name), None)


def published_in(repository: str) -> PublishedBase | None:
    """Return the published base in a repository owner/name, in any case of letters, as the Hub takes them."""
    return next((base for base in PUBLISHED if base.repository.lower() == repository.lower()), None)
