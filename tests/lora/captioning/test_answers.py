"""A caption is one line of whole sentences that describe the image, whatever the captioner writes around them."""

import pytest

from lora.captioning.answers import MAX_WORDS, Answer, caption_of
from lora.captioning.instructions import INSTRUCTIONS, SUBJECT


def caption(text: str, *, is_cut: bool = False, asked: str = SUBJECT) -> str:
    return caption_of(Answer(text, is_cut, asked))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The image shows a dog on a beach.", "a dog on a beach."),
        ("This image depicts a castle.", "a castle."),
        ("The black and white photograph captures a street.", "a street."),
        ("In this image, we can see a woman reading.", "a woman reading."),
        ("In the scene, there are two cats", "two cats"),
        ("I can see a dog", "a dog"),
        ("This is a photo of a man in a hat.", "a photo of a man in a hat."),
        ("This appears to be a kitchen.", "a kitchen."),
        ("a picture of a red circle", "a red circle"),
        ("Sure! Here's a caption for you: A cat sleeps.", "A cat sleeps."),
        ("**Caption:** A cat sleeps on a sofa.", "A cat sleeps on a sofa."),
        ("Description: The image features a boat.", "a boat."),
        ('"A dog runs."', "A dog runs."),
        ("<think>The user wants a caption.</think>\n\nA dog runs.", "A dog runs."),
        ("The user wants a caption.</think>A dog runs.", "A dog runs."),
    ],
)
def test_opening_phrases_are_removed(text, expected):
    assert caption(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "A photo of a dog",
        "The dog is in the image.",
        "The man shows his hand.",
        "In a kitchen, a woman cooks.",
        'A sign that says "open" and a door marked "exit"',
        "A woman paints a picture of a tree.",
        "一只狗在海滩上跑。",
    ],
)
def test_a_description_stays_as_it_is(text):
    assert caption(text) == text


def test_several_lines_and_markdown_become_one_line():
    assert caption("# Beach\n\n- A **dog** runs.\n- The sea is\tcalm.") == "Beach A dog runs. The sea is calm."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog runs. Behind it, the", "A dog runs."),
        ("A dog on a long beach, a red ball and the", "A dog on a long beach"),
        ("A dog on the beach with a big red ball and th", "A dog on the beach with a big red ball"),
        ("A dog runs.", "A dog runs."),
    ],
)
def test_an_answer_that_was_cut_ends_with_its_last_whole_part(text, expected):
    assert caption(text, is_cut=True) == expected


def test_an_answer_that_ended_by_itself_needs_no_full_stop():
    assert caption("a dog, a ball and a cat") == "a dog, a ball and a cat"


def test_a_caption_has_at_most_100_words_and_no_fragment():
    words = caption(" ".join(f"Dog number {number} runs along the beach." for number in range(80))).split()
    assert MAX_WORDS - 7 < len(words) <= MAX_WORDS
    assert words[-1] == "beach."


@pytest.mark.parametrize("text", ["dog " * 1000, "x" * 4000, "狗" * 4000, "狗跑。" * 1333])
def test_an_answer_of_4000_characters_is_limited(text):
    assert 0 < len(caption(text, is_cut=True)) <= 1000


def test_a_sentence_that_is_repeated_is_kept_once():
    assert caption("A dog runs. The sea is calm. " * 20, is_cut=True) == "A dog runs. The sea is calm."


@pytest.mark.parametrize("text", ["", "  \n", "...", "**", "<think>A long thought", "The image shows", '""'])
def test_an_answer_without_a_word_of_description_is_refused(text):
    with pytest.raises(ValueError, match=r"^the captioner gave an (empty answer|answer without a description)$"):
        caption(text, is_cut=True)


@pytest.mark.parametrize("asked", sorted(set(INSTRUCTIONS.values())))
def test_an_answer_that_repeats_the_instruction_is_refused(asked):
    for text in (asked, asked.upper(), asked[: len(asked) // 2], asked.replace(". ", ".\n\n")):
        with pytest.raises(ValueError, match=r"^the captioner repeated its instruction$"):
            caption(text, is_cut=True, asked=asked)


def test_what_follows_the_instruction_is_the_caption():
    assert caption(f"user\n{SUBJECT}\nassistant\nA dog runs.") == "A dog runs."
    assert caption(f"{SUBJECT[:90]}. A dog runs.") == "A dog runs."
