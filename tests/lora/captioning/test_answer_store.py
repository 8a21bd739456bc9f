"""Answers are kept on disk by image, captioner and instruction; a disk that fails costs only that."""

import shutil

import pytest

from lora.captioning.answer_store import AnswerStore
from lora.captioning.answers import Answer
from tests.captioners import blip, saved
from tests.tiny import write

ANSWER = Answer("Ein Bär. 熊\n", is_cut=True, asked="What?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(blip(), tmp_path_factory.mktemp("captioner"))


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FLUX_LORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/captions"


def test_an_answer_is_there_for_a_later_job_with_the_same_image_captioner_and_instruction(folder, tmp_path):
    AnswerStore(folder, "?").put("image", ANSWER)
    assert AnswerStore(folder, "?").get("image") == ANSWER
    assert AnswerStore(folder, "?").get("another image") is None
    assert AnswerStore(folder, "another instruction").get("image") is None
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "generation_config.json").write_text("{}")
    assert AnswerStore(other, "?").get("image") is None


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_a_damaged_file_counts_as_none(folder, cache, content):
    AnswerStore(folder, "?").put("image", ANSWER)
    (file,) = cache.glob("*.safetensors")
    write(file, file.read_bytes().replace(b'"is_cut"', b'"is_xxx"') if content is None else content)
    assert AnswerStore(folder, "?").get("image") is None


def test_without_a_disk_answers_are_kept_for_the_job(folder, cache):
    write(cache.parent, b"a file in place of the folder")
    store = AnswerStore(folder, "?")
    store.put("image", ANSWER)
    assert store.get("image") == ANSWER
