"""The captioner is found in weights/captioner or where a setting says, and its files are checked as those of a base."""

import json

import pytest
import torch
from safetensors.torch import save

from tests.tiny import assert_one_sentence, write
from weights import caption_model
from weights.caption_model import find_captioner
from weights.layouts import is_captioner_file

CONFIG = json.dumps({"model_type": "blip", "architectures": ["BlipForConditionalGeneration"]}).encode()


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """The default folder, which is missing."""
    monkeypatch.setattr(caption_model, "FOLDER", tmp_path / "captioner")
    monkeypatch.delenv("FLUX_CAPTIONER", raising=False)
    monkeypatch.delenv("FLUX_CAPTIONER_DEVICE", raising=False)
    return tmp_path / "captioner"


def made(folder):
    folder.mkdir(parents=True)
    write(folder / "config.json", CONFIG)
    write(folder / "model.safetensors", save({"head": torch.ones(2)}))
    return folder


def test_without_a_folder_there_is_none():
    assert find_captioner() is None


def test_the_default_folder_is_used_and_named_by_its_class(folder):
    made(folder)
    found = find_captioner()
    assert (found.path, found.name, found.on_cpu) == (folder, "BlipForConditionalGeneration", False)


def test_a_setting_names_another_folder_the_cpu_or_none(folder, monkeypatch, tmp_path):
    made(folder)
    monkeypatch.setenv("FLUX_CAPTIONER", str(made(tmp_path / "my-blip")))
    monkeypatch.setenv("FLUX_CAPTIONER_DEVICE", "CPU")
    found = find_captioner()
    assert (found.path, found.name, found.on_cpu) == (tmp_path / "my-blip", "my-blip", True)
    monkeypatch.setenv("FLUX_CAPTIONER", "off")
    assert find_captioner() is None


def test_tiny_is_the_embedded_one_which_the_default_is_not(monkeypatch):
    assert find_captioner() is None
    monkeypatch.setenv("FLUX_CAPTIONER", "Tiny")
    found = find_captioner()
    assert (found.path, found.name) == (caption_model.WEIGHTS / "tiny-captioner", "tiny-captioner")


def test_a_damaged_embedded_one_is_built_again(monkeypatch, tmp_path):
    monkeypatch.setattr(caption_model, "TINY_FOLDER", made(tmp_path / "tiny-captioner"))
    (tmp_path / "tiny-captioner/model.safetensors").unlink()
    monkeypatch.setenv("FLUX_CAPTIONER", "tiny")
    with pytest.raises(FileNotFoundError) as error:
        find_captioner()
    assert_one_sentence(error.value, "the captioner: ", "is missing", "; run `script/build-tiny-captioner`")


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        (
            "FLUX_CAPTIONER",
            "Qwen/Qwen3-VL-2B-Instruct",
            "which is no folder: expected off, tiny, or the path of a folder",
        ),
        ("FLUX_CAPTIONER_DEVICE", "gpu", "expected auto or cpu"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(monkeypatch, name, value, found):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError) as error:
        find_captioner()
    assert_one_sentence(error.value, f"{name} is {value!r}", found)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("config.json", None, "config.json is missing: expected"),
        ("config.json", b"{}", "names no class: expected architectures"),
        ("config.json", b'{"architectures": []}', "names no class: expected architectures"),
        ("config.json", b"<html>", "is damaged: found 6 bytes that are no JSON"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1", "is a git-lfs pointer"),
        ("model.safetensors", None, "model.safetensors is missing: expected it, or model.safetensors.index.json"),
        ("model.safetensors", save({"head": torch.ones(2)})[:-1], "is cut short, 1 bytes are missing"),
        ("model.safetensors.incomplete", b"", "is an incomplete download"),
    ],
)
def test_missing_and_damaged_files_are_named_with_what_to_do(folder, name, content, found):
    made(folder)
    if content is None:
        (folder / name).unlink()
    else:
        write(folder / name, content)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        find_captioner()
    assert_one_sentence(
        error.value, f"the captioner: {folder / name}"[:60], found, "`script/download captioner`", "; autocaption=false"
    )


def test_no_code_and_no_other_precision_is_downloaded():
    wanted = ("config.json", "chat_template.jinja", "merges.txt", "model-00001-of-00002.safetensors", "LICENSE")
    others = ("modeling_florence2.py", "pytorch_model.bin", "onnx/model.safetensors", "README.md", "x.safetensors")
    assert [name for name in (*wanted, *others) if is_captioner_file(name)] == list(wanted)
