"""A LoRA that is in the cache is not read again."""

import pytest

from lora.formats.layer_names.flux1 import FLUX1
from lora.formats.layer_names.flux2 import FLUX2
from lora.serving import lora_cache as lora_cache_module
from lora.serving.lora_cache import LoraCache
from tests.random_klein import random_klein_transformer
from tests.tiny import assert_one_sentence, random_lora, tiny_transformer


@pytest.fixture(scope="module")
def tensors():
    return random_lora(tiny_transformer(), rank=4)


class Reader:
    """Returns a digest and tensors, and counts its calls."""

    def __init__(self, digest, tensors):
        self.result, self.calls = (digest, tensors, ()), 0

    def __call__(self):
        self.calls += 1
        return self.result


def test_a_cached_file_is_not_read_again(tensors):
    lora_cache, read = LoraCache(), Reader("a", tensors)
    assert lora_cache.lora("key", read, FLUX1) is lora_cache.lora("key", read, FLUX1)
    assert read.calls == 1


def test_the_same_file_from_elsewhere_is_the_same_lora(tensors):
    lora_cache, read = LoraCache(), Reader("a", tensors)
    assert lora_cache.lora("here", read, FLUX1) is lora_cache.lora("there", read, FLUX1)
    assert read.calls == 2
    assert lora_cache.lora("here", Reader("b", tensors), FLUX1).digest == "a"


def test_another_file_is_another_lora(tensors):
    lora_cache = LoraCache()
    assert lora_cache.lora("here", Reader("a", tensors), FLUX1) is not lora_cache.lora(
        "there", Reader("b", tensors), FLUX1
    )


def test_a_file_that_changed_is_read_again(tensors):
    lora_cache = LoraCache()
    assert lora_cache.lora("first", Reader("a", tensors), FLUX1).digest == "a"
    assert lora_cache.lora("second", Reader("b", tensors), FLUX1).digest == "b"
    assert lora_cache.lora("first", Reader("c", tensors), FLUX1).digest == "a"


def test_a_file_is_read_for_each_family_of_which_there_are_bases(tensors):
    """The cache is one for all bases of a server. The same names are other layers in another family, or none."""
    lora_cache, read = LoraCache(), Reader("a", tensors)
    lora_cache.lora("key", read, FLUX1)
    with pytest.raises(ValueError) as error:
        lora_cache.lora("key", read, FLUX2)
    assert_one_sentence(error.value, "FLUX.1")
    of_klein = Reader("b", random_lora(random_klein_transformer(), rank=4))
    lora_cache.lora("other", of_klein, FLUX2)
    with pytest.raises(ValueError) as error:
        lora_cache.lora("other", of_klein, FLUX1)
    assert_one_sentence(error.value, "FLUX.2")
    assert lora_cache.lora("key", read, FLUX1).digest == "a"
    assert (read.calls, of_klein.calls) == (2, 2)


def test_the_least_recently_used_are_evicted_and_the_latest_stays(monkeypatch, tensors):
    lora_cache, first, second = LoraCache(), Reader("a", tensors), Reader("b", tensors)
    lora_cache.lora("a", first, FLUX1), lora_cache.lora("b", second, FLUX1)
    monkeypatch.setattr(lora_cache_module, "MAX_BYTES", 1)
    lora_cache.lora("b", second, FLUX1), lora_cache.lora("a", first, FLUX1)
    assert (first.calls, second.calls) == (2, 1)


def test_the_number_of_cache_keys_is_limited(monkeypatch, tensors):
    monkeypatch.setattr(lora_cache_module, "MAX_CACHE_KEYS", 2)
    lora_cache, read = LoraCache(), Reader("a", tensors)
    for key in ("1", "2", "3", "1"):
        lora_cache.lora(key, read, FLUX1)
    assert read.calls == 4


def test_a_file_that_cannot_be_read_is_not_cached(tensors):
    lora_cache = LoraCache()

    def broken():
        raise ValueError("lora_weights is none")

    with pytest.raises(ValueError, match="lora_weights is none"):
        lora_cache.lora("a", broken, FLUX1)
    assert lora_cache.lora("a", Reader("a", tensors), FLUX1).digest == "a"


def test_a_file_that_is_no_lora_for_flux_is_refused_in_one_sentence():
    with pytest.raises(ValueError) as error:
        LoraCache().lora("a", Reader("a", {}), FLUX1)
    assert_one_sentence(error.value, "changes nothing")
