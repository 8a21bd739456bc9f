"""LoRAs that were worn lately need not be read anew."""

import pytest

from lora.serving import closet as closet_module
from lora.serving.closet import Closet
from tests.tiny import assert_one_sentence, random_lora, tiny_transformer


@pytest.fixture(scope="module")
def tensors():
    return random_lora(tiny_transformer(), rank=4)


def test_a_lora_is_brought_into_one_layout_once(tensors):
    closet = Closet()
    assert closet.lora("a", tensors) is closet.lora("a", tensors)
    assert closet.lora("b", tensors) is not closet.lora("a", tensors)


def test_those_not_asked_for_longest_go_first_and_the_last_one_stays(monkeypatch, tensors):
    closet = Closet()
    first, second = closet.lora("a", tensors), closet.lora("b", tensors)
    monkeypatch.setattr(closet_module, "MOST_BYTES", 1)
    assert closet.lora("b", tensors) is second
    assert closet.lora("a", tensors) is not first


def test_what_is_no_lora_of_flux_is_refused_in_one_sentence():
    with pytest.raises(ValueError) as error:
        Closet().lora("a", {})
    assert_one_sentence(error.value, "the LoRA changes nothing")
