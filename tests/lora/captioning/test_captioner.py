"""Captioners of three kinds: with a chat template (Qwen3-VL), with a task token (Florence-2), without either (BLIP)."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora.captioning import captioner as captioner_module
from lora.captioning.captioner import Captioner, check_class
from tests import captioners
from tests.tiny import assert_one_sentence, noisy_image, replace

FEW = 12
CPU = torch.device("cpu")
QUESTION = "What is in this image?"
# What each kind is asked; the tiny models write until they are cut.
ASKED = {"qwen": QUESTION, "florence": "Describe with a paragraph what is shown in the image.", "blip": ""}


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    monkeypatch.setattr(captioner_module, "MAX_NEW_TOKENS", FEW)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with a captioner of each kind."""
    root = tmp_path_factory.mktemp("captioners")
    return {name: captioners.saved(getattr(captioners, name)(), root / name) for name in ASKED}


def loaded(folder, check=lambda: None):
    check_class(folder)
    return Captioner.load(folder, on=CPU, check=check)


@pytest.mark.parametrize("name", ASKED)
def test_a_captioner_answers_the_same_twice_and_in_a_batch_as_alone(folders, name):
    captioner, images = loaded(folders[name]), [noisy_image(96, 80, seed=seed) for seed in (1, 2)]
    answers = captioner.answers(images, QUESTION)
    assert [(answer.asked, answer.is_cut) for answer in answers] == [(ASKED[name], True)] * 2
    assert all(0 < len(answer.text) <= FEW for answer in answers), "without the prompt"
    assert loaded(folders[name]).answers(images, QUESTION) == answers
    assert [captioner.answers([image], QUESTION)[0] for image in images] == answers


@pytest.mark.parametrize("name", ASKED)
def test_each_kind_is_asked_in_its_own_way(folders, name, monkeypatch):
    captioner, asked, model = loaded(folders[name]), [], type(getattr(captioners, name)()[0])
    generate = model.generate

    def recorded(self, **inputs):
        asked.append(inputs.get("input_ids"))
        return generate(self, **inputs)

    monkeypatch.setattr(model, "generate", recorded)
    captioner.answers([noisy_image()], QUESTION)
    (tokens,) = asked
    words = "" if tokens is None else getattr(captioners, name)()[1].tokenizer.decode(tokens[0])
    assert ASKED[name] in words
    assert (tokens is None) == (name == "blip")


def test_the_answer_depends_on_the_image_and_on_the_instruction(folders):
    captioner = loaded(folders["qwen"])
    (one, other) = captioner.answers([noisy_image(96, 80, seed=seed) for seed in (1, 2)], QUESTION)
    (third,) = captioner.answers([noisy_image(96, 80, seed=1)], "Something else?")
    assert len({one.text, other.text, third.text}) == 3


def test_sampling_in_the_models_own_settings_has_no_effect(folders, tmp_path):
    image = noisy_image(96, 80, seed=1)
    folder = shutil.copytree(folders["qwen"], tmp_path / "sampling")
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 5.0, "top_p": 0.9, "top_k": 50, "num_beams": 1}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    torch.manual_seed(5)
    assert loaded(folder).answers([image], QUESTION) == loaded(folders["qwen"]).answers([image], QUESTION)


@pytest.mark.parametrize("name", ASKED)
def test_a_reason_to_stop_ends_it_between_two_tokens(folders, name):
    calls = iter(range(1000))

    def check():
        if next(calls) == 20:
            raise InterruptedError("stop")

    with pytest.raises(InterruptedError):
        loaded(folders[name], check).answers([noisy_image()], QUESTION)
    assert next(calls) == 21, "nothing is computed after it"


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [("llama", "LlamaForCausalLM"), ("blip", "BlipModel"), ("mine", "MyForConditionalGeneration"), (None, "Blip")],
)
def test_a_folder_of_another_kind_of_model_is_refused_by_its_class(tmp_path, model_type, architecture):
    config = {"model_type": model_type, "architectures": [architecture], "auto_map": {"AutoModel": "code.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError) as error:
        check_class(tmp_path)
    assert_one_sentence(error.value, "the captioner", f"has the class {architecture!r}: expected", "Qwen3VLFor")


def without_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "vision" in name)
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (without_a_tensor, "its weights do not match its config.json at "),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "processor_config.json").unlink(), "cannot be loaded"),
        (lambda folder: replace(folder / "tokenizer.json", b"{}"), "cannot be loaded"),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_refused_in_one_sentence(folders, tmp_path, damage, found):
    folder = shutil.copytree(folders["blip"], tmp_path / "damaged")
    damage(folder)
    with pytest.raises(ValueError) as error:
        loaded(folder)
    assert_one_sentence(
        error.value, f"the captioner in {folder} cannot be loaded", found, "`script/download captioner`"
    )
