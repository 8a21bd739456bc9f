"""The trigger rule: replaced, found, or put in front; once."""

import pytest

from lora.dataset.captions import with_trigger


@pytest.mark.parametrize(
    ("caption", "trained"),
    [
        ("a photo of [trigger] at sea", "a photo of TOK at sea"),
        ("[TRIGGER] and [Trigger]", "TOK and TOK"),
        ("a TOK dog", "a TOK dog"),
        ("a tok dog", "a tok dog"),
        ("Tok, sitting", "Tok, sitting"),
        ("a dog", "TOK a dog"),
        ("in TOKYO", "TOK in TOKYO"),
        ("STOKE and TOK_1", "TOK STOKE and TOK_1"),
        ("TOK's dog", "TOK's dog"),
        ("", "TOK"),
        (" \n\t ", "TOK"),
        ("a dog\r\non a   mat\n", "TOK a dog on a mat"),
    ],
)
def test_a_caption_names_the_trigger_word(caption, trained):
    assert with_trigger(caption, "TOK") == trained


@pytest.mark.parametrize(
    ("caption", "trained"),
    [("a dog", "a dog"), ("a photo of [trigger] at sea", "a photo of at sea"), ("", ""), ("[trigger]", "")],
)
def test_without_a_trigger_word_nothing_is_added(caption, trained):
    assert with_trigger(caption, "") == trained


@pytest.mark.parametrize("trigger", ["a\\1b", "x+y", "(", "\\g<0>", "[trigger]"])
def test_a_trigger_word_is_text_and_no_pattern(trigger):
    assert with_trigger("of [trigger]", trigger) == f"of {trigger}"
    assert with_trigger("a dog", trigger) == f"{trigger} a dog"


def test_a_trigger_of_two_words_is_found_as_a_whole():
    assert with_trigger("the red fox runs", "red fox") == "the red fox runs"
    assert with_trigger("the red foxes run", "red fox") == "red fox the red foxes run"


def test_the_rule_changes_nothing_when_it_is_applied_twice():
    once = with_trigger("a dog", "TOK")
    assert with_trigger(once, "TOK") == once
