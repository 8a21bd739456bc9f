"""The LoRAs that a request names: one, an extra one, or any number."""

import pytest

from lora.serving.requested_loras import TRAINED, RequestedLora, requested_loras
from tests.tiny import assert_one_sentence

NOTHING = {
    "lora_weights": None,
    "replicate_weights": None,
    "trained": None,
    "lora_scale": 1.0,
    "extra_lora": None,
    "extra_lora_scale": 1.0,
    "loras": None,
}


def requested(**inputs):
    return requested_loras(**NOTHING | inputs)


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_nothing_given_is_no_lora(empty):
    """C16."""
    assert (
        requested(lora_weights=empty, replicate_weights=empty, extra_lora=empty, loras=[empty] if empty else None) == ()
    )


def test_lora_weights_takes_precedence_over_replicate_weights():
    assert requested(lora_weights="a/b", replicate_weights="c/d") == (RequestedLora("a/b", 1.0, "lora_weights"),)
    assert requested(replicate_weights="c/d", lora_scale=0.5) == (RequestedLora("c/d", 0.5, "replicate_weights"),)


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_a_trained_version_uses_its_own_lora_unless_a_request_names_another(blank):
    own = RequestedLora("t/u", 0.5, TRAINED)
    assert requested(trained="t/u", lora_weights=blank, replicate_weights=blank, lora_scale=0.5) == (own,)
    assert requested(trained="t/u", lora_weights="a/b") == (RequestedLora("a/b", 1.0, "lora_weights"),)
    assert requested(trained="t/u", replicate_weights="c/d") == (RequestedLora("c/d", 1.0, "replicate_weights"),)
    beside = requested(trained="t/u", lora_scale=0.5, extra_lora="e/f", loras=["g/h"])
    assert beside == (own, RequestedLora("e/f", 1.0, "extra_lora"), RequestedLora("g/h", 1.0, "loras[0]"))


def test_an_extra_lora_is_used_with_the_first_or_alone():
    """P2, C101: it is never ignored."""
    assert requested(extra_lora="e/f", extra_lora_scale=-1) == (RequestedLora("e/f", -1.0, "extra_lora"),)
    both = requested(lora_weights="a/b", lora_scale=2, extra_lora="e/f")
    assert [(lora.reference, lora.scale) for lora in both] == [("a/b", 2.0), ("e/f", 1.0)]


def test_loras_lists_any_number_each_with_its_scale():
    found = requested(lora_weights="a/b", loras=["c/d", "e/f:0.5", " g/h : -1"])
    assert [(lora.reference, lora.scale) for lora in found] == [("a/b", 1.0), ("c/d", 1.0), ("e/f", 0.5), ("g/h", -1.0)]
    assert found[2].named == "loras[1]"


@pytest.mark.parametrize(
    ("typed", "scale"), [(".5", 0.5), ("-.5", -0.5), ("1.", 1.0), ("1e-1", 0.1), ("2E-1", 0.2), ("+1", 1.0)]
)
def test_a_scale_may_have_any_notation_of_a_number(typed, scale):
    assert requested(loras=[f"owner/name:{typed}"]) == (RequestedLora("owner/name", scale, "loras[0]"),)


@pytest.mark.parametrize(
    "reference",
    [
        "owner/model:4f2a" + "0" * 60,
        "https://host.example/lora.safetensors?signature=a:b",
        "https://host.example:443/lora.tar",
        "urn:air:flux1:lora:civitai:618692@691639",
        "data:application/x-tar;base64,AAAA",
    ],
)
def test_a_colon_without_a_scale_stays_in_the_reference(reference):
    assert requested(loras=[reference]) == (RequestedLora(reference, 1.0, "loras[0]"),)
    assert requested(loras=[f"{reference}:0.8"]) == (RequestedLora(reference, 0.8, "loras[0]"),)


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ({"lora_weights": "a/b", "lora_scale": 3.5}, "lora_scale is 3.5"),
        ({"extra_lora": "a/b", "extra_lora_scale": -2}, "extra_lora_scale is -2"),
        ({"loras": ["a/b", "c/d:9"]}, "the scale of loras[1] is 9.0"),
        ({"lora_scale": "x"}, "lora_scale is 'x'"),
        ({"extra_lora_scale": None}, "extra_lora_scale is None"),
        ({"lora_weights": 0}, "lora_weights is 0"),
        ({"loras": [7]}, "loras[0] is 7"),
        ({"loras": 5}, "loras is 5: expected a list"),
        ({"loras": "a/b"}, "loras is 'a/b': expected a list"),
        ({"loras": ["a/b"] * 17}, "loras holds 17 LoRAs: expected at most 16"),
    ],
)
def test_an_error_names_its_input(inputs, found):
    with pytest.raises(ValueError) as error:
        requested(**inputs)
    assert_one_sentence(error.value, found, "expected")
