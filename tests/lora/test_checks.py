"""Validation of inputs: the value is returned, or the error gives the name, the value and what was expected."""

import pytest
from cog import Secret

from lora.checks import check_choice, check_float, check_int, check_list, check_secret, check_text
from tests.tiny import assert_one_sentence


@pytest.mark.parametrize("value", [3, 3.0])
def test_a_whole_number_is_returned_as_an_int(value):
    result = check_int("steps", value, at_least=3, at_most=6)
    assert result == 3
    assert isinstance(result, int)


@pytest.mark.parametrize("value", [2, 7, 3.5, True, None, "3", float("nan"), float("inf"), -float("inf"), [3]])
def test_anything_but_a_whole_number_within_bounds_is_refused(value):
    with pytest.raises(ValueError, match=r"^steps is") as error:
        check_int("steps", value, at_least=3, at_most=6)
    assert_one_sentence(error.value, "steps", str(value), "expected")


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_a_number_within_bounds_is_returned_as_a_float(value):
    result = check_float("rate", value, at_least=0, at_most=1)
    assert result == value
    assert isinstance(result, float)


@pytest.mark.parametrize("value", [-0.1, 1.1, True, None, "0.5", float("nan"), float("inf")])
def test_anything_but_a_number_within_bounds_is_refused(value):
    with pytest.raises(ValueError, match=r"^rate is") as error:
        check_float("rate", value, at_least=0, at_most=1)
    assert_one_sentence(error.value, "rate", str(value), "expected a number from 0 to 1")


def test_text_is_returned_unchanged():
    assert check_text("prompt", " é\n", at_most=3) == " é\n"


@pytest.mark.parametrize("text", ["\0", "a\0b"])
def test_text_with_a_nul_character_is_refused(text):
    with pytest.raises(ValueError) as error:
        check_text("prompt", text, at_most=3)
    assert_one_sentence(error.value, f"prompt has a NUL character at position {text.index(chr(0))}", "expected")


@pytest.mark.parametrize("value", ["four", None, 4])
def test_overlong_text_and_other_types_are_refused(value):
    with pytest.raises(ValueError, match=r"^prompt ") as error:
        check_text("prompt", value, at_most=3)
    assert_one_sentence(error.value, "prompt", "expected")


def test_a_valid_choice_is_returned():
    assert check_choice("format", "png", ["webp", "png"]) == "png"


@pytest.mark.parametrize("value", ["PNG", "", None, 3, ["png"]])
def test_an_invalid_choice_is_refused_and_the_choices_are_listed(value):
    with pytest.raises(ValueError, match=r"^format is") as error:
        check_choice("format", value, ["webp", "png"])
    assert_one_sentence(error.value, "format", repr(value), "webp, png")


def test_a_list_is_returned():
    assert check_list("loras", ["a"]) == ["a"]


@pytest.mark.parametrize("value", ["ab", None, 5, ("a",), {"a": 1}])
def test_other_types_than_lists_are_refused(value):
    with pytest.raises(ValueError, match=r"^loras is") as error:
        check_list("loras", value)
    assert_one_sentence(error.value, repr(value), "expected a list")


@pytest.mark.parametrize(
    "value", [10**5000, -(10**5000), "x" * 10**6, [1] * 10**6], ids=["huge", "very small", "text", "list"]
)
def test_the_error_for_a_huge_value_is_short(value):
    with pytest.raises(ValueError, match=r"^steps is ") as error:
        check_int("steps", value, at_least=3, at_most=6000)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("value", [" s3cret\n", "s3cret", Secret("s3cret")])
def test_a_secret_is_returned_as_text(value):
    assert check_secret("hf_token", value) == "s3cret"


@pytest.mark.parametrize("value", [None, "", " ", Secret(""), Secret(None)])
def test_a_blank_secret_is_empty(value):
    assert check_secret("hf_token", value) == ""
