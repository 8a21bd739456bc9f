"""Unsafe images are blocked, here by a small classifier that the tests train."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from lora.serving.safety import SafetyChecker, remove_blocked
from tests.classifiers import trained_classifier
from tests.tiny import assert_one_sentence

RED, BLUE = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a classifier that is trained to block red images."""
    return train(tmp_path_factory.mktemp("safety"), {0: "normal", 1: "nsfw"})


def train(folder, labels):
    return trained_classifier(folder, allowed=[BLUE], blocked=[RED], labels=labels)


def test_an_image_that_the_classifier_labels_nsfw_is_blocked(folder):
    checker = SafetyChecker(folder)
    assert checker.blocks(RED)
    assert not checker.blocks(BLUE)
    assert checker.blocks(Image.fromarray(np.asarray(RED)).convert("RGBA"))


def test_allowed_images_keep_their_index(folder):
    """P8: the indices do not shift where an image is blocked."""
    assert list(remove_blocked([BLUE, RED, BLUE, RED], SafetyChecker(folder))) == [0, 2]
    assert remove_blocked([BLUE, RED], None) == {0: BLUE, 1: RED}


def test_if_all_images_are_blocked_the_request_fails(folder):
    with pytest.raises(RuntimeError) as error:
        remove_blocked([RED, RED], SafetyChecker(folder))
    assert_one_sentence(error.value, "blocked all 2 images")


def test_a_folder_without_a_classifier_is_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        SafetyChecker(tmp_path)
    assert_one_sentence(error.value, "no safety checker in", "expected an image classifier")


def test_a_classifier_without_the_label_nsfw_is_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        SafetyChecker(train(tmp_path, {0: "cat", 1: "dog"}))
    assert_one_sentence(error.value, "has the labels cat, dog", "expected nsfw")


def change_tensors(folder, change):
    file = folder / "model.safetensors"
    tensors = change(load_file(file))
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})


def change_config(folder, name, **changes):
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


DAMAGES = {
    "no head": lambda it: change_tensors(it, lambda all_: {n: t for n, t in all_.items() if "classifier" not in n}),
    "other shapes": lambda it: change_config(it, "config.json", intermediate_size=24),
    "no numbers": lambda it: change_tensors(it, lambda all_: {n: t * float("nan") for n, t in all_.items()}),
    "no size": lambda it: change_config(it, "preprocessor_config.json", size=5),
    "cut short": lambda it: (it / "model.safetensors").write_bytes(b"1234"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_classifier_is_refused(folder, tmp_path, damage):
    """transformers would initialize its weights randomly, or fail at the first image."""
    broken = shutil.copytree(folder, tmp_path / "broken")
    damage(broken)
    with pytest.raises(ValueError) as error:
        SafetyChecker(broken)
    assert_one_sentence(error.value, f"in {broken}", "expected")
    assert "ignore_mismatched_sizes" not in str(error.value)
