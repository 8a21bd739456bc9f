"""What should not be shown is told from the rest, by a small classifier that this test makes."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from lora.serving.safety import SafetyChecker, allowed
from tests.classifiers import taught_classifier
from tests.tiny import assert_one_sentence

RED, BLUE = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a classifier that was taught to block what is red."""
    return made(tmp_path_factory.mktemp("safety"), {0: "normal", 1: "nsfw"})


def made(folder, labels):
    return taught_classifier(folder, allowed=[BLUE], blocked=[RED], labels=labels)


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
def test_a_classifier_that_is_not_whole_is_refused(folder, tmp_path, damage):
    """Its library would give it random numbers, or fail at the first image."""
    broken = shutil.copytree(folder, tmp_path / "broken")
    damage(broken)
    with pytest.raises(ValueError) as error:
        SafetyChecker(broken)
    assert_one_sentence(error.value, f"in {broken}", "expected")
    assert "ignore_mismatched_sizes" not in str(error.value)
