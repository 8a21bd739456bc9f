"""LoRAs that were worn lately need not be read anew."""

import pytest

from lora.serving import lora_cache as closet_module
from lora.serving.lora_cache import LoraCache
from tests.tiny import assert_one_sentence, random_lora, tiny_transformer


@pytest.fixture(scope="module")
def tensors():
    return random_lora(tiny_transformer(), rank=4)


class Reader:
    """Of a file with this digest; counts how often it is asked."""

    def __init__(self, digest, tensors):
        self.answer, self.calls = (digest, tensors), 0

    def __call__(self):
        self.calls += 1
        return self.answer


def test_a_file_that_is_known_is_not_read_again(tensors):
    lora_cache, read = LoraCache(), Reader("a", tensors)
    assert lora_cache.lora("stamp", read) is lora_cache.lora("stamp", read)
    assert read.calls == 1


def test_the_same_file_from_elsewhere_is_the_same_lora(tensors):
    lora_cache, read = LoraCache(), Reader("a", tensors)
    assert lora_cache.lora("here", read) is lora_cache.lora("there", read)
    assert read.calls == 2
    assert lora_cache.lora("here", Reader("b", tensors)).digest == "a"


def test_another_file_is_another_lora(tensors):
    lora_cache = LoraCache()
    assert lora_cache.lora("here", Reader("a", tensors)) is not lora_cache.lora("there", Reader("b", tensors))


def test_a_file_that_changed_is_read_again(tensors):
    lora_cache = LoraCache()
    assert lora_cache.lora("first", Reader("a", tensors)).digest == "a"
    assert lora_cache.lora("second", Reader("b", tensors)).digest == "b"
    assert lora_cache.lora("first", Reader("c", tensors)).digest == "a"


def test_those_not_asked_for_longest_go_first_and_the_last_one_stays(monkeypatch, tensors):
    lora_cache, first, second = LoraCache(), Reader("a", tensors), Reader("b", tensors)
    lora_cache.lora("a", first), lora_cache.lora("b", second)
    monkeypatch.setattr(closet_module, "MOST_BYTES", 1)
    lora_cache.lora("b", second), lora_cache.lora("a", first)
    assert (first.calls, second.calls) == (2, 1)


def test_stamps_are_not_kept_for_ever(monkeypatch, tensors):
    monkeypatch.setattr(closet_module, "MOST_STAMPS", 2)
    lora_cache, read = LoraCache(), Reader("a", tensors)
    for stamp in ("1", "2", "3", "1"):
        lora_cache.lora(stamp, read)
    assert read.calls == 4


def test_a_file_that_cannot_be_read_is_not_remembered(tensors):
    lora_cache = LoraCache()

    def broken():
        raise ValueError("lora_weights is none")

    with pytest.raises(ValueError, match="lora_weights is none"):
        lora_cache.lora("a", broken)
    assert lora_cache.lora("a", Reader("a", tensors)).digest == "a"


def test_what_is_no_lora_of_flux_is_refused_in_one_sentence():
    with pytest.raises(ValueError) as error:
        LoraCache().lora("a", Reader("a", {}))
    assert_one_sentence(error.value, "changes nothing")
