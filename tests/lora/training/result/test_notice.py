"""The NOTICE file of a LoRA has what the licence of its base requires."""

import pytest

from lora.training.result.notice import licence, licence_link, notice
from weights.bases import REPOSITORIES, TINY

NAMES = [*REPOSITORIES, TINY]


@pytest.mark.parametrize("base", ["dev", "krea"])
def test_a_lora_for_dev_carries_the_attribution_notice(base):
    """3(a) to 3(e) of the licence: the attribution, the modification, who grants the rights, and no endorsement."""
    text = notice(base)
    assert "The FLUX.1 [dev] Model is licensed by Black Forest Labs. Inc. under the FLUX.1 [dev] Non-Commercial" in text
    assert "IN NO EVENT SHALL BLACK FOREST LABS, INC. BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY" in text
    assert text.count("OUT OF OR IN CONNECTION WITH USE OF THIS MODEL.\nThe FLUX.1 [dev] Model has been modified") == 1
    assert "granted to you directly by Black Forest Labs, Inc." in text
    assert "no official product" in text
    assert f"https://huggingface.co/{REPOSITORIES[base]}/blob/main/LICENSE.md" in text
    assert licence(base) == "flux-1-dev-non-commercial-license"
    assert licence_link(base) == f"https://huggingface.co/{REPOSITORIES[base]}/blob/main/LICENSE.md"


@pytest.mark.parametrize("base", ["schnell", "tiny"])
def test_a_lora_for_a_free_base_is_free(base):
    assert "Apache License 2.0" in notice(base)
    assert "Non-Commercial" not in notice(base)
    assert licence(base) == "Apache-2.0"


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
