"""A prompt contains prefix, suffix and trigger word exactly once, and applying the rule again changes nothing."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lora.dataset.captions import PromptRule, one_line

PIECES = ["TOK", "tok", "[trigger]", "[[Trigger]]", "[tri", "gger]", "a", "photo", "dog", ",", "!", " ", "\n", "\ud83d"]
texts = st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=12)
lines = texts.map(one_line)
triggers = st.sampled_from(["", "TOK", "a", "!", "<s1>", "red fox", "(", "trigger"]) | lines.filter(
    lambda line: "[trigger]" not in line.lower()
)


def prompt_for(caption, trigger_word="TOK", *, prefix="", suffix=""):
    return PromptRule(trigger_word, prefix, suffix).prompt(caption)


def deterministic(test):
    return settings(max_examples=300, deadline=None, derandomize=True)(test)


@pytest.mark.parametrize(
    ("caption", "prompt"),
    [
        ("a photo of [trigger] at sea", "a photo of TOK at sea"),
        ("[TRIGGER] and [Trigger]", "TOK and TOK"),
        ("[trigger]'s dog", "TOK's dog"),
        ("[[trigger]] at sea", "TOK at sea"),
        ("a TOK dog", "a TOK dog"),
        ("a tok dog", "a tok dog"),
        ("Tok, sitting", "Tok, sitting"),
        ("a (TOK) dog", "a (TOK) dog"),
        ("TOK's dog", "TOK's dog"),
        ("a dog", "TOK a dog"),
        ("in TOKYO", "TOK in TOKYO"),
        ("照片TOK在海边", "照片TOK在海边"),
        ("of STOK", "TOK of STOK"),
        ("STOKE and TOK_1", "TOK STOKE and TOK_1"),
        ("[trigger", "TOK [trigger"),
        ("", "TOK"),
        (" \n\t ", "TOK"),
    ],
)
def test_a_prompt_contains_the_trigger_word(caption, prompt):
    """A61, A62."""
    assert prompt_for(caption) == prompt


@pytest.mark.parametrize(
    ("caption", "prompt"),
    [("a dog", "a dog"), ("a photo of [trigger] at sea", "a photo of at sea"), ("", ""), ("[trigger]", "")],
)
def test_without_a_trigger_word_nothing_is_added(caption, prompt):
    assert prompt_for(caption, "") == prompt


@pytest.mark.parametrize("trigger", ["a\\1b", "x+y", "(", "\\g<0>", "<s1>", "!", "ohwx-man", "猫", "🦊"])
def test_a_trigger_word_is_not_a_regular_expression(trigger):
    assert prompt_for("of [trigger]", trigger) == f"of {trigger}"
    assert prompt_for("x dog", trigger) == f"{trigger} x dog"
    assert prompt_for(f"x {trigger} dog", trigger) == f"x {trigger} dog"


@pytest.mark.parametrize(
    ("caption", "prompt"),
    [
        ("the red fox runs", "the red fox runs"),
        ("the Red\nFox runs", "the Red Fox runs"),
        ("the red foxes run", "red fox the red foxes run"),
    ],
)
def test_a_trigger_of_two_words_is_matched_as_a_whole(caption, prompt):
    assert prompt_for(caption, "red fox") == prompt


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a dog\r\non a   mat\n", "a dog on a mat"),
        ("a\u2028b\u2029c\x0bd\x85e\u00a0f", "a b c d e f"),
        ("a\x00b\x1bc\x9bd", "a b c d"),
        ("\ufeffa\ufeff dog", "a dog"),
        ("cafe\u0301", "café"),
        ("half \ud83d a face", "half ? a face"),
        ("👩\u200d🚀 क\u200cष", "👩\u200d🚀 क\u200cष"),
    ],
)
def test_text_becomes_one_line(text, line):
    """A56, A58."""
    assert one_line(text) == line


@pytest.mark.parametrize(
    ("caption", "prompt"),
    [
        ("a dog", "a photo of TOK, a dog"),
        ("", "a photo of TOK"),
        ("a photo of TOK, a dog", "a photo of TOK, a dog"),
        ("A photo of tok: a dog", "A photo of tok: a dog"),
        ("a photo of TOKYO", "a photo of TOK, a photo of TOKYO"),
        ("a photo of TOK", "a photo of TOK"),
    ],
)
def test_a_prompt_begins_with_the_prefix_once(caption, prompt):
    assert prompt_for(caption, prefix="a photo of [trigger],") == prompt


@pytest.mark.parametrize(
    ("suffix", "caption", "prompt"),
    [
        ("in the style of TOK", "a dog", "a dog in the style of TOK"),
        (", in the style of TOK", "a dog", "a dog, in the style of TOK"),
        (", in the style of TOK", "a dog in the style of tok", "a dog in the style of tok"),
        (", in the style of TOK", "", "in the style of TOK"),
        ("TOK", "a STOK", "a STOK TOK"),
        ("by TOK!", "a dog", "a dog by TOK!"),
        ("TOK,", "a dog TOK,", "a dog TOK,"),
    ],
)
def test_a_prompt_ends_with_the_suffix_once(suffix, caption, prompt):
    assert prompt_for(caption, suffix=suffix) == prompt


@pytest.mark.parametrize(
    ("caption", "prompt"),
    [
        ("a dog", "a photo of TOK a dog, film"),
        ("a photo of a dog", "a photo of TOK a dog, film"),
        ("a dog, film", "a photo of TOK a dog, film"),
        ("a photo of a dog, film", "a photo of TOK a dog, film"),
        ("a photo of, film", "a photo of TOK, film"),
        ("", "a photo of TOK, film"),
    ],
)
def test_the_trigger_word_goes_between_prefix_and_suffix(caption, prompt):
    assert prompt_for(caption, prefix="a photo of", suffix=", film") == prompt


def test_a_line_that_prefix_and_suffix_overlap_in_is_unchanged():
    assert prompt_for("a photo of TOK", prefix="a photo of TOK", suffix="of TOK") == "a photo of TOK"
    assert prompt_for("", prefix="a photo of TOK", suffix="of TOK") == "a photo of TOK"


def test_a_comma_before_a_suffix_stays_where_a_prefix_is_added():
    assert prompt_for("dog by TOK,", prefix="a", suffix="by TOK,") == "a dog by TOK,"


@deterministic
@given(texts, triggers, lines, lines)
@example("a dog", "TOK", "", "!")
@example("a dog", "!", "(", ")")
@example("a photo of a dog", "TOK", "a photo of", "a dog")
@example("[tri[trigger]gger]", "", "", "")
@example("a", "TOK", ",", ";")
def test_the_rule_is_idempotent(caption, trigger, prefix, suffix):
    rule = PromptRule(trigger, prefix, suffix)
    once = rule.prompt(caption)
    assert rule.prompt(once) == once


@deterministic
@given(texts, triggers, lines, lines)
def test_a_prompt_is_one_line_of_valid_text(caption, trigger, prefix, suffix):
    prompt = prompt_for(caption, trigger, prefix=prefix, suffix=suffix)
    assert prompt.encode().decode() == prompt == one_line(prompt)


@deterministic
@given(texts, triggers, lines, lines)
def test_every_prompt_mentions_the_trigger_word(caption, trigger, prefix, suffix):
    rule = PromptRule(trigger, prefix, suffix)
    assert not trigger or rule.mentions_trigger(rule.prompt(caption))


@pytest.mark.parametrize(
    ("rule", "caption", "is_mentioned"),
    [
        (PromptRule("TOK", "", ""), "a tok", True),
        (PromptRule("TOK", "", ""), "a [trigger]", True),
        (PromptRule("TOK", "", ""), "TOKYO", False),
        (PromptRule("red fox", "", ""), "red\nfox", True),
        (PromptRule("TOK", "a photo of TOK,", ""), "a dog", True),
        (PromptRule("TOK", "", "by [trigger]"), "a dog", True),
        (PromptRule("", "", ""), "a dog", False),
    ],
)
def test_mentions_trigger_finds_the_trigger_word_and_its_placeholder(rule, caption, is_mentioned):
    assert rule.mentions_trigger(caption) is is_mentioned


def test_long_captions_are_processed_quickly():
    """Regular expressions with catastrophic backtracking would take minutes here."""
    rule = PromptRule("a" * 99 + "!", "ab" * 500, "a" * 999 + "b")
    started = time.process_time()
    assert rule.prompt("[" * 40_000 + "a" * 20_000).startswith("abab")
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("trigger", "caption", "prompt"),
    [
        ("小明", "小明在海边跑步", "小明在海边跑步"),
        ("小明", "小王在海边", "小明 小王在海边"),
        ("แมว", "รูปแมวดำ", "รูปแมวดำ"),
        ("кот", "котик спит", "кот котик спит"),
        ("кот", "чёрный кот спит", "чёрный кот спит"),
    ],
)
def test_a_trigger_word_is_found_in_scripts_without_spaces(trigger, caption, prompt):
    assert PromptRule(trigger, "", "").prompt(caption) == prompt
