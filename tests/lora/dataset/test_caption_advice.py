"""What is wrong with all captions, or with the trigger word, is said first and with the remedy."""

import re

import pytest

from lora.dataset.caption_advice import missing_captions
from lora.dataset.captions import PromptRule
from lora.dataset.report import report_on
from tests.tiny import encoded, noisy_image, read_archive, write, zipped

IMAGES = {f"{index}.jpg": encoded(noisy_image(64, 64, seed=index)) for index in range(3)}
SCENES = ("red dog at home", "blue cat asleep", "green fox outside")


def read(tmp_path, members, *, trigger_word="TOK"):
    archive = write(tmp_path / "images.zip", zipped(IMAGES | members))
    return read_archive(archive, into=tmp_path / "into", trigger_word=trigger_word).dataset


def first_warnings(tmp_path, members, *, trigger_word="TOK", prefix=""):
    dataset = read(tmp_path, members, trigger_word=trigger_word)
    return list(missing_captions(dataset, PromptRule(trigger_word, prefix, "")))


def captions(form):
    return {f"{index}.txt": form.format(scene) for index, scene in enumerate(SCENES)}


@pytest.mark.parametrize(
    ("members", "warnings"),
    [
        (
            {"0.docx": b"PK", "1.docx": b"PK"},
            ["captions seem to be in '0.docx', '1.docx', not read: '0.docx': save it as plain text, 0.txt"],
        ),
        ({"0.wd14": "dog"}, ["captions seem to be in '0.wd14', not read: call it 0.txt"]),
        (
            {"train.parquet": b"PAR1"},
            [
                "captions seem to be in 'train.parquet', not read: save it as metadata.csv with the columns file_name"
                " and text"
            ],
        ),
        (
            {"a.txt": "a dog", "readme.txt": "a cat"},
            ["2 captions without an image of that name: 'a in a.txt', 'readme in readme.txt'"],
        ),
        ({"0.txt": "", "1.txt": " "}, ["2 caption files without a word: '0.txt', '1.txt'"]),
    ],
)
def test_if_no_image_has_a_caption_that_comes_first_with_the_files_that_seem_to_hold_some(tmp_path, members, warnings):
    found = first_warnings(tmp_path, members)
    assert found == ["no image has a caption, although files for captions are there:", *warnings]


@pytest.mark.parametrize("name", ["0.xmp", "1.npz", "readme.md", "0.json"])
def test_files_of_other_programs_do_not_seem_to_hold_captions(tmp_path, name):
    assert first_warnings(tmp_path, {name: "<x:xmpmeta/>" if name == "0.xmp" else "{}"}) == []


def test_a_file_that_seems_to_hold_captions_is_skipped_for_that_reason(tmp_path):
    (skipped,) = read(tmp_path, {"0.docx": b"PK"}).skipped
    assert skipped.reason == "captions seem to be in it: save it as plain text, 0.txt"


def test_an_empty_caption_file_is_not_reported_if_every_image_has_a_caption(tmp_path):
    assert first_warnings(tmp_path, captions("TOK, {}") | {"x/0.txt": ""}) == []


@pytest.mark.parametrize(
    ("form", "prompt"),
    [
        ("ohwx person, {}", "begin with 'ohwx', .* prompts are 'TOK ohwx ...'"),
        ("A photo of Ohwx man, {}", "have 'Ohwx', .* prompts are 'TOK ... Ohwx ...'"),
        ("{}, in ohwx style", "have 'ohwx'"),
    ],
)
def test_a_trigger_word_in_all_captions_that_was_not_given_is_reported_with_the_remedy(tmp_path, form, prompt):
    (warning,) = first_warnings(tmp_path, captions(form))
    word = "Ohwx" if "Ohwx" in form else "ohwx"
    assert warning.endswith(
        f"and the LoRA learns both words; if {word!r} is your trigger word, give trigger_word={word}"
    )
    assert re.search(prompt, warning)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("a photo of a woman, {}", {}),
        ("{}", {}),
        ("[trigger] and ohwx, {}", {}),
        ("ohwx person, {}", {"trigger_word": "ohwx"}),
        ("ohwx person, {}", {"trigger_word": ""}),
        ("ohwx person, {}", {"prefix": "TOK,"}),
    ],
)
def test_no_other_trigger_word_is_suspected_where_none_is(tmp_path, form, options):
    assert first_warnings(tmp_path, captions(form), **options) == []


def test_images_with_neither_a_caption_nor_a_trigger_word_are_named_and_no_blank_prompt_is_shown(tmp_path):
    rule, dataset = PromptRule("", "", ""), read(tmp_path, {"0.txt": "a dog"}, trigger_word="")
    (warning,) = missing_captions(dataset, rule)
    assert warning.startswith("2 images with neither a caption nor a trigger word, so that no prompt will call what")
    assert warning.endswith("give captions or trigger_word: '1.jpg', '2.jpg'")
    assert report_on(dataset, rule=rule, resolutions=(64,)).prompts == ("a dog",)


def test_a_report_on_images_without_captions_says_so_in_its_first_line(tmp_path):
    report = report_on(read(tmp_path, {}), rule=PromptRule("TOK", "", ""), resolutions=(64,))
    assert report.as_text().splitlines()[0] == "3 images, none with a caption"
    assert report.prompts == ("TOK",)
