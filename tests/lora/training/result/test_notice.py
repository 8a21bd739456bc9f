"""The NOTICE file of a LoRA has what the licence of its base requires."""

import pytest

from lora.training.result.known_bases import KNOWN, known_base
from lora.training.result.notice import notice
from weights.catalogue import EMBEDDED, NAMES, PUBLISHED, published


def licence(base):
    return known_base(base).terms.licence


def licence_link(base):
    return known_base(base).terms.link


@pytest.mark.parametrize("base", ["dev", "krea"])
def test_a_lora_for_dev_carries_the_attribution_notice(base):
    """3(a) to 3(e) of the licence: the attribution, the modification, who grants the rights, and no endorsement."""
    text = notice(base)
    assert "The FLUX.1 [dev] Model is licensed by Black Forest Labs. Inc. under the FLUX.1 [dev] Non-Commercial" in text
    assert "IN NO EVENT SHALL BLACK FOREST LABS, INC. BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY" in text
    assert text.count("OUT OF OR IN CONNECTION WITH USE OF THIS MODEL.\nThe FLUX.1 [dev] Model has been modified") == 1
    assert "granted to you directly by Black Forest Labs, Inc." in text
    assert "no official product" in text
    assert f"https://huggingface.co/{published(base).repository}/blob/main/LICENSE.md" in text
    assert licence(base) == "flux-1-dev-non-commercial-license"
    assert licence_link(base) == f"https://huggingface.co/{published(base).repository}/blob/main/LICENSE.md"


def test_a_lora_for_klein_9b_carries_the_attribution_notice_of_its_own_licence():
    """The FLUX Non-Commercial License v2.1, which is another one than FLUX.1's."""
    text = notice("klein-9b")
    assert "This FLUX Model is licensed by Black Forest Labs Inc. under the FLUX Non-Commercial License. Copy" in text
    assert text.count("OUT OF OR IN CONNECTION WITH USE OF THIS MODEL.\nThe FLUX Model has been modified") == 1
    assert "IN NO EVENT SHALL BLACK FOREST LABS INC. BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY" in text
    assert "FLUX.1" not in text
    assert licence("klein-9b") == "flux-non-commercial-license"
    assert licence_link("klein-9b") in text


@pytest.mark.parametrize("base", ["schnell", "tiny", "klein", "klein-distilled", "tiny-flux2"])
def test_a_lora_for_a_free_base_is_free(base):
    assert "Apache License 2.0" in notice(base)
    assert "Non-Commercial" not in notice(base)
    assert licence(base) == "Apache-2.0"


def test_what_the_card_says_of_a_base_is_what_the_catalogue_says():
    assert {base.name: (base.repository, base.licence) for base in PUBLISHED} == {
        name: (base.usage.repository, base.terms.licence) for name, base in KNOWN.items() if base.usage.repository
    }
    assert {base.name: f"weights/{base.folder}" for base in EMBEDDED} == {
        name: base.usage.folder for name, base in KNOWN.items() if not base.usage.repository
    }
    kinds = {base.name: base.kind.pipelines for base in (*PUBLISHED, *EMBEDDED)}
    assert [name for name, base in KNOWN.items() if base.usage.pipeline not in kinds[name]] == []


@pytest.mark.parametrize("base", NAMES)
def test_every_known_base_has_its_own_terms(base):
    assert "look it up" not in notice(base)
    assert len({notice(name) for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("base", ["my-flux", "/home/me/my-flux", "/home/me/my-flux/"])
def test_the_licence_of_an_unknown_base_must_be_looked_up(base):
    """The path of its folder does not appear."""
    assert "The licence of my-flux itself holds for this LoRA too: look it up where my-flux comes from" in notice(base)
    assert licence(base) == "that of the base model my-flux"
    assert "/home" not in notice(base) + licence(base)


@pytest.mark.parametrize("base", [*NAMES, "my-flux"])
def test_every_notice_says_that_the_lora_is_a_derivative(base):
    text = notice(base)
    assert text.startswith("This LoRA was trained on ")
    assert "Derivative, which modifies that model" in text
    assert text.endswith("\n")
