"""The licence terms of LoRAs, as a NOTICE file and a model card say them. Knows no base by its name.

A LoRA is a Derivative under section 1(a) of the non-commercial licences of Black Forest Labs; their section 3 says what
must come with one.
"""

from dataclasses import dataclass

APACHE = "Apache-2.0"
APACHE_LINK = "https://www.apache.org/licenses/LICENSE-2.0"
NO_LIABILITY = """\
BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING \
FROM, OUT OF OR IN CONNECTION WITH USE OF THIS MODEL.
"""
UNOFFICIAL = "It is no official product of Black Forest Labs, Inc., who have not endorsed, approved or validated it.\n"


@dataclass(frozen=True, slots=True)
class Terms:
    """The licence terms of LoRAs for a base model."""

    licence: str  # its name on Hugging Face, or that of SPDX
    link: str | None  # to its text; None if it is not known
    body: str  # of a NOTICE file


@dataclass(frozen=True, slots=True)
class NonCommercialLicence:
    """A licence of Black Forest Labs for non-commercial purposes."""

    name: str  # on Hugging Face
    model: str  # as its text calls what it licenses
    attribution: str  # the exact text of section 3(b)

    def terms(self, repository: str) -> Terms:
        """The terms of LoRAs for the base in a repository, which holds a copy of the licence."""
        link = f"https://huggingface.co/{repository}/blob/main/LICENSE.md"
        modified = f"The {self.model} has been modified: this LoRA changes what it draws.\n"  # 3(c)
        granted = (
            f"Any rights to use the {self.model} and this LoRA are granted to you directly by Black Forest Labs, Inc."
            " under that\nlicence, for non-commercial purposes only. A copy of it:\n"
        )
        return Terms(self.name, link, f"{UNOFFICIAL}\n{self.attribution}{modified}\n{granted}{link}\n")


# github.com/black-forest-labs/flux, model_licenses/LICENSE-FLUX1-dev
FLUX1_DEV = NonCommercialLicence(
    "flux-1-dev-non-commercial-license",
    "FLUX.1 [dev] Model",
    "The FLUX.1 [dev] Model is licensed by Black Forest Labs. Inc. under the FLUX.1 [dev] Non-Commercial License."
    f" Copyright Black Forest Labs. Inc.\nIN NO EVENT SHALL BLACK FOREST LABS, INC. {NO_LIABILITY}",
)
# Version 2.1: LICENSE.md in the repositories of FLUX.2 [klein] 9B
FLUX = NonCommercialLicence(
    "flux-non-commercial-license",
    "FLUX Model",
    "This FLUX Model is licensed by Black Forest Labs Inc. under the FLUX Non-Commercial License. Copyright Black"
    f" Forest Labs Inc.\nIN NO EVENT SHALL BLACK FOREST LABS INC. {NO_LIABILITY}",
)


def apache(owner: str, *, more: str = "") -> Terms:
    """The terms of LoRAs for a base under the Apache License 2.0; `owner` and `more` are parts of sentences on it."""
    return Terms(
        APACHE, APACHE_LINK, f"{more}\nThe base model is {owner}, under the Apache License 2.0:\n{APACHE_LINK}\n"
    )


def unknown(name: str) -> Terms:
    """The terms of LoRAs for a base of which only the name is known."""
    body = f"\nThe licence of {name} itself holds for this LoRA too: look it up where {name} comes from.\n"
    return Terms(f"that of the base model {name}", None, body)
