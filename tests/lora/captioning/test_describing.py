"""Images without a caption get one; an image that the captioner fails at is named, and the others are not affected."""

import pytest
import torch
from PIL import Image

from lora.captioning.answer_store import AnswerStore
from lora.captioning.describing import ask, described, uncaptioned
from lora.dataset.captions import PromptRule
from tests.captioners import blip, saved, speaker
from tests.tiny import encoded, read_archive, solid_image, write, zipped

RULE = PromptRule("TOK", "a photo of TOK,", "in daylight")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(blip(), tmp_path_factory.mktemp("captioner"))


@pytest.fixture
def store(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("FLUX_LORA_CACHE", str(tmp_path / "cache"))
    return AnswerStore(folder, "Describe it.")


def dataset_of(tmp_path, rule=RULE, *, masks=None, **files):
    """Images by name, of a color or with a size, too; or captions. `masks` are added by name."""
    contents = {}
    for name, value in files.items():
        color, *size = value if isinstance(value, tuple) else (value,)
        is_image = not name.endswith("_txt")
        contents[name.replace("_", ".")] = encoded(solid_image(*size, color=color)) if is_image else value
    archive = write(tmp_path / "a.zip", zipped(contents | (masks or {})))
    options = {"prefix": rule.prefix, "suffix": rule.suffix, "unmasked_weight": 0.1 if masks else 1.0}
    return read_archive(archive, into=tmp_path / "into", **options).dataset


def asked(captioner, dataset, store, *, batch_size=4, check=lambda: None, rule=RULE):
    reports = []
    images = uncaptioned(dataset)
    failures = ask(captioner, images, "?", store, batch_size=batch_size, check=check, report=reports.append)
    assert reports[-1] == len(images)
    return described(dataset, store, failures, name="Speaker", rule=rule)


def prompts(result):
    return {image.name: image.prompt for image in result.dataset.images}


def test_images_without_a_caption_get_one_in_the_rules_of_the_training(tmp_path, store):
    kind, captioner = speaker(red="The image shows a red square.", blue="a blue square")
    dataset = dataset_of(tmp_path, one_png="red", two_png="blue", three_png="lime", three_txt="by me")
    result = asked(captioner, dataset, store)
    assert prompts(result) == {
        "one.png": "a photo of TOK, a red square. in daylight",
        "two.png": "a photo of TOK, a blue square in daylight",
        "three.png": "a photo of TOK, by me in daylight",
    }
    assert [image.caption.by_model for image in result.dataset.images] == [True, True, False]
    assert {image.caption.source for image in result.dataset.images} == {"the captioner Speaker", "three.txt"}
    assert result.failures == ()
    assert kind.batches == (2,), "the image with a caption is not asked about"


def test_a_prefix_that_the_model_wrote_already_is_not_added_twice(tmp_path, store):
    _, captioner = speaker(red="A photo of TOK, a red square in daylight")
    assert prompts(asked(captioner, dataset_of(tmp_path, one_png="red"), store)) == {
        "one.png": "A photo of TOK, a red square in daylight"
    }


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "the captioner gave an empty answer"),
        ("The image shows", "the captioner gave an answer without a description"),
        (ValueError("no\nsuch pixel"), "ValueError: no such pixel"),
        (RuntimeError("x" * 500), "RuntimeError: xxx"),
        (IndexError(), "IndexError)"),
    ],
)
def test_an_image_that_the_captioner_fails_at_has_no_caption_and_is_named(tmp_path, store, said, reason):
    _, captioner = speaker(red=said, blue="a blue square", lime="a green square")
    rule = PromptRule("TOK", "", "")
    dataset = dataset_of(tmp_path, rule, one_png="red", two_png="blue", three_png="lime")
    result = asked(captioner, dataset, store, rule=rule)
    assert prompts(result) == {"one.png": "TOK", "two.png": "TOK a blue square", "three.png": "TOK a green square"}
    (failure,) = result.failures
    assert failure.startswith(f"one.png ({reason}")
    assert len(failure) < 200


def test_an_answer_of_4000_characters_is_limited(tmp_path, store):
    _, captioner = speaker(red="A red square is here and there. " * 125 + "And")
    (prompt,) = prompts(asked(captioner, dataset_of(tmp_path, one_png="red"), store)).values()
    assert prompt == "a photo of TOK, A red square is here and there. And in daylight"


def test_batches_hold_images_of_one_size_and_each_file_once(tmp_path, store):
    kind, captioner = speaker(red="red", blue="blue", lime="lime")
    sizes = {"a_png": ("red", 96, 80), "b_png": ("blue", 96, 80), "c_png": ("lime", 80, 96), "d_png": ("red", 96, 80)}
    result = asked(captioner, dataset_of(tmp_path, **sizes), store)
    assert sorted(kind.batches) == [1, 2]
    assert prompts(result)["d.png"] == prompts(result)["a.png"]


def test_the_longest_side_of_a_described_image_is_768(tmp_path, store):
    _, captioner = speaker(red="red")
    seen = []
    answers = captioner.answers
    captioner.answers = lambda images, instruction: (
        seen.extend(image.size for image in images) or answers(images, instruction)
    )
    asked(captioner, dataset_of(tmp_path, a_png=("red", 1000, 500), b_png=("red", 96, 80)), store)
    assert sorted(seen) == [(96, 80), (768, 384)]


def test_a_captioner_sees_white_outside_of_a_mask_and_each_mask_of_a_copy_has_an_answer_of_its_own(tmp_path, store):
    """Else the caption names what the mask keeps out."""
    _, captioner = speaker(red="red")
    seen, answers = [], captioner.answers
    captioner.answers = lambda images, instruction: seen.extend(images) or answers(images, instruction)
    masks = {}
    for number, box in enumerate([(0, 0, 30, 80), (60, 0, 96, 80)]):
        mask = Image.new("L", (96, 80))
        mask.paste(255, box)
        masks[f"masks/{'ab'[number]}.png"] = encoded(mask)
    dataset = dataset_of(tmp_path, a_png="red", b_png="red", masks=masks)
    asked(captioner, dataset, store)
    corners = {(image.getpixel((2, 40)), image.getpixel((90, 40))) for image in seen}
    assert corners == {((255, 0, 0), (255, 255, 255)), ((255, 255, 255), (255, 0, 0))}
    assert all(store.get(image.appearance) for image in dataset.images)
    assert not any(store.get(image.inspection.content) for image in dataset.images)


def test_a_reason_to_stop_is_raised_and_no_failure_of_the_image(tmp_path, store):
    calls = []

    def check():
        calls.append(None)
        if len(calls) > 2:
            raise RuntimeError("the training stopped")

    _, captioner = speaker(red="red", blue="blue")
    dataset = dataset_of(tmp_path, one_png="red", two_png="blue")
    with pytest.raises(RuntimeError, match="the training stopped"):
        asked(captioner, dataset, store, batch_size=1, check=check)


def test_out_of_memory_is_no_failure_of_the_image(tmp_path, store):
    _, captioner = speaker(red=torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(torch.OutOfMemoryError):
        asked(captioner, dataset_of(tmp_path, one_png="red"), store)
