"""The NOTICE file of a LoRA: its base model, and the licence. Knows no file and no folder.

A LoRA is a Derivative under section 1(a) of the licence of FLUX.1 [dev]; sections 3(a) to (e) say what must come with
one.
"""

from dataclasses import dataclass
from pathlib import PurePath

OWNER = "black-forest-labs"  # on the Hub
APACHE = "Apache-2.0"
APACHE_LINK = "https://www.apache.org/licenses/LICENSE-2.0"
NON_COMMERCIAL = "flux-1-dev-non-commercial-license"  # its name on Hugging Face
# The exact text of section 3(b) of the licence: github.com/black-forest-labs/flux, model_licenses/LICENSE-FLUX1-dev.
ATTRIBUTION = """\
The FLUX.1 [dev] Model is licensed by Black Forest Labs. Inc. under the FLUX.1 [dev] Non-Commercial License. \
Copyright Black Forest Labs. Inc.
IN NO EVENT SHALL BLACK FOREST LABS, INC. BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION \
OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH USE OF THIS MODEL.
"""
MODIFIED = "The FLUX.1 [dev] Model has been modified: this LoRA changes what it draws.\n"  # 3(c)
UNOFFICIAL = "It is no official product of Black Forest Labs, Inc., who have not endorsed, approved or validated it.\n"
GRANTED = """\
Any rights to use the FLUX.1 [dev] Model and this LoRA are granted to you directly by Black Forest Labs, Inc. under that
licence, for non-commercial purposes only. A copy of it:
"""


@dataclass(frozen=True, slots=True)
class Terms:
    """The licence terms of a base model and of LoRAs for it."""

    model: str
    repository: str | None  # on the Hub
    licence: str
    link: str | None  # to the text of the licence
    body: str


def _non_commercial(model: str, repository: str) -> Terms:
    link = f"https://huggingface.co/{OWNER}/{repository}/blob/main/LICENSE.md"
    body = f"{UNOFFICIAL}\n{ATTRIBUTION}{MODIFIED}\n{GRANTED}{link}\n"
    return Terms(model, f"{OWNER}/{repository}", NON_COMMERCIAL, link, body)


def _apache(model: str, *, owner: str, more: str = "", repository: str | None = None) -> Terms:
    body = f"{more}\nThe base model is {owner}, under the Apache License 2.0:\n{APACHE_LINK}\n"
    return Terms(model, repository, APACHE, APACHE_LINK, body)


TERMS = {
    "dev": _non_commercial("FLUX.1 [dev] of Black Forest Labs", "FLUX.1-dev"),
    "krea": _non_commercial("FLUX.1 Krea [dev] of Black Forest Labs and Krea", "FLUX.1-Krea-dev"),
    "schnell": _apache(
        "FLUX.1 [schnell] of Black Forest Labs",
        owner="by Black Forest Labs, Inc.",
        more=UNOFFICIAL,
        repository=f"{OWNER}/FLUX.1-schnell",
    ),
    "tiny": _apache(
        "tiny-flux, the small model that the trainer brings along", owner="part of the trainer that made this LoRA"
    ),
}


def notice(base: str) -> str:
    """The NOTICE file of a LoRA for this base, which is a name in `TERMS` or a folder."""
    terms = _terms(base)
    return f"This LoRA was trained on {terms.model}: it is a Derivative, which modifies that model.\n{terms.body}"


def licence(base: str) -> str:
    """The short name of the licence of a LoRA for this base, as in `modelspec.license` and in model cards."""
    return _terms(base).licence


def licence_link(base: str) -> str | None:
    """The address of the licence of a LoRA for this base; None if it is not known."""
    return _terms(base).link


def model(base: str) -> str:
    """The name of the base in a sentence."""
    return _terms(base).model


def repository(base: str) -> str | None:
    """The repository of the base on the Hub; None if it is not known."""
    return _terms(base).repository


def _terms(base: str) -> Terms:
    return TERMS.get(base) or _unknown(PurePath(base).name)


def _unknown(name: str) -> Terms:
    body = f"\nThe licence of {name} itself holds for this LoRA too: look it up where {name} comes from.\n"
    return Terms(f"the base model {name}", None, f"that of the base model {name}", None, body)
