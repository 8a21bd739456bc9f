"""What should not be shown is told from the rest, by a small classifier that this test makes."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from lora.serving.safety import SafetyChecker, allowed
from tests.tiny import assert_one_sentence

RED, BLUE = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a classifier that was taught to block what is red."""
    return made(tmp_path_factory.mktemp("safety"), {0: "normal", 1: "nsfw"})


def made(folder, labels):
    torch.manual_seed(0)
    sides = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, id2label=labels, **sides))
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    pixels = processor(images=[RED, BLUE], return_tensors="pt")["pixel_values"]
    for _ in range(40):
        model(pixels, labels=torch.tensor([1, 0])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_what_the_classifier_calls_so_is_blocked(folder):
    checker = SafetyChecker(folder)
    assert checker.blocks(RED)
    assert not checker.blocks(BLUE)
    assert checker.blocks(Image.fromarray(np.asarray(RED)).convert("RGBA"))


def test_places_are_kept(folder):
    """P8: the list does not close up over what is left out."""
    assert list(allowed([BLUE, RED, BLUE, RED], SafetyChecker(folder))) == [0, 2]
    assert allowed([BLUE, RED], None) == {0: BLUE, 1: RED}


def test_if_all_are_blocked_that_is_the_answer(folder):
    with pytest.raises(RuntimeError) as error:
        allowed([RED, RED], SafetyChecker(folder))
    assert_one_sentence(error.value, "blocked all 2 images")


def test_a_folder_without_a_classifier_is_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        SafetyChecker(tmp_path)
    assert_one_sentence(error.value, "no safety checker in", "expected an image classifier")


def test_a_classifier_of_other_things_is_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        SafetyChecker(made(tmp_path, {0: "cat", 1: "dog"}))
    assert_one_sentence(error.value, "has the labels cat, dog", "expected nsfw")
