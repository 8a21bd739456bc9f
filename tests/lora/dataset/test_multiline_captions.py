"""A caption of several lines is one prompt, or with `multiline_split` one for each line."""

import pytest
import torch

from lora.dataset.captions import PromptRule
from lora.dataset.encoding import encoded_bytes
from lora.dataset.report import report_on
from lora.flux.prompt import encode_prompt
from tests.tiny import TINY_FLUX, encoded, noisy_image, read_archive, tiny_pipeline, write, zipped

LINES = "a dog\n\x07\n  [trigger] at sea \r\na dog\nTOK asleep\n"


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def read(tmp_path, members, **options):
    archive = write(tmp_path / "images", zipped({"1.png": encoded(noisy_image()), **members}))
    return read_archive(archive, into=tmp_path / "into", **options)


def test_each_different_line_with_words_is_a_prompt_with_trigger_word_prefix_and_suffix():
    rule = PromptRule("TOK", "a photo,", "outside", multiline_split=True)
    assert rule.prompts(LINES) == (
        "a photo, TOK a dog outside",
        "a photo, TOK at sea outside",
        "a photo, TOK asleep outside",
    )
    assert rule.prompts("") == rule.prompts(" \n ") == ("a photo, TOK outside",)


def test_by_default_the_lines_are_joined(tmp_path):
    assert PromptRule("TOK", "", "").prompts(LINES) == ("a dog TOK at sea a dog TOK asleep",)
    (image,) = read(tmp_path, {"1.txt": LINES}).dataset.images
    assert image.prompts == ("a dog TOK at sea a dog TOK asleep",)


ROWS = '{"file_name": "1.png", "text": "a dog"}\n{"file_name": "1.png", "text": "TOK asleep"}\n'


@pytest.mark.parametrize(
    "members",
    [
        {"metadata.jsonl": '{"file_name": "1.png", "text": ["a dog", "TOK asleep"]}'},
        {"metadata.jsonl": ROWS},
        {"captions.csv": "file_name,text\n1.png,a dog\n1.png,TOK asleep\n"},
    ],
    ids=["a list", "two rows", "two rows of a CSV"],
)
def test_a_table_may_have_several_captions_for_an_image(tmp_path, members):
    dataset = read(tmp_path, members, multiline_split=True).dataset
    assert dataset.images[0].prompts == ("TOK a dog", "TOK asleep")
    assert dataset.pairing.conflicting == ()
    (tmp_path / "off").mkdir()
    assert read(tmp_path / "off", members).dataset.images[0].prompts in (("TOK a dog",), ("a dog TOK asleep",))


def test_a_table_of_the_same_name_in_input_captions_takes_the_place_of_all_lines(tmp_path):
    captions = write(tmp_path / "captions", zipped({"metadata.jsonl": ROWS.replace("a dog", "new")}))
    (image,) = read(
        tmp_path, {"metadata.jsonl": ROWS.replace("asleep", "old")}, captions=captions, multiline_split=True
    ).dataset.images
    assert image.prompts == ("TOK new", "TOK asleep")


def test_captions_of_another_file_stay_unused(tmp_path):
    dataset = read(tmp_path, {"1.txt": "one\ntwo", "metadata.jsonl": ROWS}, multiline_split=True).dataset
    assert dataset.images[0].prompts == ("TOK one", "TOK two")
    assert {caption.source for caption in dataset.pairing.conflicting} == {"metadata.jsonl"}


@pytest.mark.parametrize(
    "members", [{"1.txt": LINES}, {"captions.json": '{"1.png": "a dog\\n[trigger] at sea\\nTOK asleep"}'}]
)
def test_every_caption_is_encoded_once_and_counted_and_stays_with_its_image(tmp_path, pipeline, members):
    archive = read(tmp_path, {"2.png": encoded(noisy_image(seed=1)), **members}, multiline_split=True)
    first, second = archive.encoded(pipeline).examples
    prompts = ["TOK a dog", "TOK at sea", "TOK asleep"]
    assert archive.dataset.images[0].prompts == tuple(prompts)
    for found, text in zip((first.prompt, *first.other_prompts), prompts, strict=True):
        assert torch.equal(found.tokens, encode_prompt(pipeline, text).tokens)
    assert second.other_prompts == ()
    (tmp_path / "joined").mkdir()
    joined = read(tmp_path / "joined", {"2.png": encoded(noisy_image(seed=1)), **members}).dataset
    text_bytes = first.prompt.tokens.numel() * 4
    sizes = [encoded_bytes(each, TINY_FLUX, extra_texts=0) for each in (archive.dataset, joined)]
    assert sizes[0] - sizes[1] == 2 * text_bytes


def test_the_report_says_which_images_have_several_captions(tmp_path):
    dataset = read(tmp_path, {"1.txt": LINES}, multiline_split=True).dataset
    report = report_on(dataset, rule=PromptRule("TOK", "", ""), resolutions=(64,))
    line = "1 image with several captions, 3 in all: one of them is used in each step (multiline_split)"
    assert line in report.as_text().splitlines()
    assert report.images[0]["other_prompts"] == ["TOK at sea", "TOK asleep"]
