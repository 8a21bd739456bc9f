"""A training has what lacks a caption described, pays for each image once, and never fails for a captioner's memory."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import BlipForConditionalGeneration

from lora.captioning import captioner as captioner_module
from lora.captioning.instructions import INSTRUCTIONS
from lora.dataset.captions import PromptRule
from lora.dataset.report import report_on
from lora.training import captions
from lora.training.captions import CaptionerRun, Captioning, with_captions
from lora.training.memory.captioner import CaptionerPlacement
from tests.captioners import blip, qwen, saved
from tests.tiny import assert_one_sentence, checked_config, encoded, noisy_image, read_archive, write, zipped


@dataclass(frozen=True)
class Found:
    path: Path
    name: str = "me/my-captioner"
    on_cpu: bool = False


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(blip(), tmp_path_factory.mktemp("captioner"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three images, of which one has a caption."""
    root = tmp_path_factory.mktemp("images")
    files = {f"{name}.png": encoded(noisy_image(seed=seed)) for seed, name in enumerate(("one", "two", "three"))}
    return read_archive(write(root / "a.zip", zipped({**files, "three.txt": "mine"})), into=root / "into").dataset


@pytest.fixture(autouse=True)
def few_tokens_and_own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(captioner_module, "MAX_NEW_TOKENS", 12)
    monkeypatch.setenv("FLUX_LORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def loads(monkeypatch):
    """The classes that were loaded with weights."""
    loaded, load = [], BlipForConditionalGeneration.from_pretrained

    def recorded(*arguments, **options):
        loaded.append(1)
        return load(*arguments, **options)

    monkeypatch.setattr(BlipForConditionalGeneration, "from_pretrained", recorded)
    return loaded


def captioned(dataset, found, *, check=lambda: None, **inputs):
    """The data set with captions, and the lines of the log."""
    lines = []
    result = with_captions(dataset, checked_config(**inputs), Captioning(lambda: found, check), lines.append)
    return result, lines


def untimed(lines):
    return [re.sub(r"\d+\.\d s", "N s", line) for line in lines]


def test_a_captioner_describes_the_images_without_a_caption_and_the_log_says_so(dataset, folder):
    result, lines = captioned(dataset, Found(folder), autocaption_suffix="at noon")
    one, two, three = result.images
    assert (one.caption.by_model, one.caption.source) == (True, "the captioner me/my-captioner")
    for image in (one, two):
        assert image.prompt == f"TOK {image.caption.text} at noon"
    assert three == dataset.images[2], "a caption of a person stays"
    assert untimed(lines) == [
        "autocaption: me/my-captioner describes 2 images of 3",
        "autocaption: the captioner runs on the CPU, 1 at a time",
        "autocaption: 2 captions by me/my-captioner in N s",
    ]


def test_the_report_says_which_captions_are_by_a_model(dataset, folder):
    result, _ = captioned(dataset, Found(folder))
    report = report_on(result, rule=PromptRule("TOK", "", ""), resolutions=(64,))
    assert report.caption_sources == {"the captioner me/my-captioner": 2, ".txt files": 1}
    assert [image["caption_from"] for image in report.images][1:] == ["the captioner me/my-captioner", "three.txt"]
    assert "all captions without 'TOK': it is put in front" in str(report.warnings), "which is about the person's only"
    result = replace(result, images=result.images[:2])
    assert "without" not in str(report_on(result, rule=PromptRule("TOK", "", ""), resolutions=(64,)).warnings)


def test_a_second_job_gets_the_same_captions_without_loading_the_captioner(dataset, folder, loads):
    first, _ = captioned(dataset, Found(folder))
    again, lines = captioned(dataset, Found(folder))
    assert again == first
    assert len(loads) == 1
    assert untimed(lines) == ["autocaption: 2 captions by me/my-captioner in N s, 2 of them known from an earlier job"]


def test_without_the_cache_the_captions_are_the_same(dataset, folder, monkeypatch, tmp_path, loads):
    first, _ = captioned(dataset, Found(folder))
    monkeypatch.setenv("FLUX_LORA_CACHE", str(tmp_path / "other"))
    assert captioned(dataset, Found(folder))[0] == first
    assert len(loads) == 2


def test_each_lora_type_has_its_instruction(dataset, tmp_path):
    assert INSTRUCTIONS.keys() == {"subject", "style", "general", "replicate"}
    found = Found(saved(qwen(), tmp_path / "qwen"))
    prompts = {kind: captioned(dataset, found, lora_type=kind)[0].images[0].prompt for kind in INSTRUCTIONS}
    assert len(set(prompts.values())) == 3, "that of the public trainer is general"
    assert prompts["replicate"] == prompts["general"]


def never():
    pytest.fail("no captioner is looked for")


def test_with_autocaption_off_or_all_captions_there_no_captioner_is_looked_for(dataset):
    whole = replace(dataset, images=dataset.images[2:])
    for given, autocaption in ((dataset, False), (whole, True)):
        lines = []
        config = checked_config(autocaption=autocaption)
        assert with_captions(given, config, Captioning(never, never), lines.append) is given
        assert lines == []


@pytest.mark.parametrize(
    ("trigger_word", "instead"),
    [("TOK", "trained with the trigger word alone"), ("", "trained without a trigger word or caption")],
)
def test_without_a_captioner_the_log_says_so_once_with_the_command(dataset, trigger_word, instead):
    result, lines = captioned(dataset, None, trigger_word=trigger_word)
    assert result == dataset
    (line,) = lines
    assert_one_sentence(line, "autocaption: no captioner is installed; 2 of 3 images have no caption", instead)
    assert "`script/download captioner`" in line


def test_a_model_of_another_class_is_refused_before_it_is_loaded(dataset, tmp_path):
    write(tmp_path / "config.json", b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(ValueError, match="has the class 'LlamaForCausalLM': expected an image-to-text class"):
        captioned(dataset, Found(tmp_path))


def test_a_captioner_that_is_too_large_is_not_loaded_and_a_line_says_so(dataset, folder, monkeypatch, loads):
    monkeypatch.setattr(captions, "free_host_bytes", lambda: 10**9)
    result, lines = captioned(dataset, Found(folder))
    assert result == dataset
    assert loads == []
    assert lines[1].startswith(
        "autocaption: me/my-captioner is not used: the machine has 1.0 GB of free memory, expected"
    )
    assert lines[-1] == (
        "autocaption: no caption for 'one.png (there was not enough memory for the captioner)', 'two.png (there was"
        " not enough memory for the captioner)': trained with the trigger word alone"
    )


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_if_memory_runs_out_the_next_placement_is_tried_and_no_answer_is_lost(dataset, folder, monkeypatch, error):
    generate, batches = BlipForConditionalGeneration.generate, []

    def short_of_memory(self, pixel_values, **options):
        batches.append(len(pixel_values))
        if len(batches) in (1, 3):
            raise error
        return generate(self, pixel_values, **options)

    monkeypatch.setattr(BlipForConditionalGeneration, "generate", short_of_memory)
    lines = []
    run = CaptionerRun(Found(folder), "?", lambda: None, lines.append)
    images = dataset.images[:2]
    placements = [CaptionerPlacement(False, count) for count in (4, 1, 1)]
    assert run.ask(images, placements) == {}
    assert batches == [2, 1, 1, 1], "the answer before the second error is kept"
    assert sum("out of memory" in line for line in lines) == 2
    assert all(map(run.knows, images))


@pytest.mark.parametrize("method", ["generate", "from_pretrained"])
def test_if_memory_runs_out_everywhere_the_training_goes_on_without_captions(dataset, folder, monkeypatch, method):
    def short_of_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(BlipForConditionalGeneration, method, short_of_memory)
    result, lines = captioned(dataset, Found(folder))
    assert result == dataset
    assert "there was not enough memory for the captioner" in lines[-1]


def test_an_image_that_the_captioner_fails_at_is_named_with_the_reason(dataset, folder, monkeypatch):
    generate, calls = BlipForConditionalGeneration.generate, []

    def fails_once(self, **inputs):
        calls.append(1)
        if len(calls) == 1:
            raise IndexError("no such token")
        return generate(self, **inputs)

    monkeypatch.setattr(BlipForConditionalGeneration, "generate", fails_once)
    result, lines = captioned(dataset, Found(folder))
    (name,) = [image.name for image in result.images if image.caption is None]
    alone = "trained with the trigger word alone"
    assert lines[-1] == f"autocaption: no caption for '{name} (IndexError: no such token)': {alone}"


def test_a_reason_to_stop_ends_the_job(dataset, folder):
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 5:
            raise RuntimeError("the training stopped: SIGTERM came")

    with pytest.raises(RuntimeError, match="SIGTERM came"):
        captioned(replace(dataset, images=dataset.images[:1]), Found(folder), check=check)
    assert len(calls) == 7, "once in the model, once more to tell it from a failure"
