"""A deployment says whether what is drawn must be checked, and finds out at setup whether it can be."""

import pytest

from tests.tiny import assert_one_sentence
from weights import safety
from weights.safety import find_safety


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(safety, "FOLDER", tmp_path)
    monkeypatch.delenv("FLUX_SAFETY", raising=False)
    return tmp_path


@pytest.fixture
def there(folder):
    (folder / "config.json").write_text("{}")
    return folder


def test_without_a_checker_images_are_drawn_and_the_log_says_so():
    found = find_safety()
    assert found.folder is None
    assert "images are not checked" in found.line()
    assert "hf download Falconsai/nsfw_image_detection" in found.line()


def test_a_checker_that_is_there_is_used_and_a_request_may_say_no(there):
    assert find_safety() == safety.Safety(there, can_be_disabled=True)


def test_a_deployment_that_insists_cannot_be_overruled(monkeypatch, there):
    monkeypatch.setenv("FLUX_SAFETY", "required")
    assert find_safety() == safety.Safety(there, can_be_disabled=False)


def test_a_deployment_that_insists_does_not_start_without(monkeypatch):
    monkeypatch.setenv("FLUX_SAFETY", "required")
    with pytest.raises(FileNotFoundError) as error:
        find_safety()
    assert_one_sentence(error.value, "FLUX_SAFETY is required", "hf download")


@pytest.mark.usefixtures("there")
def test_a_deployment_may_do_without(monkeypatch):
    monkeypatch.setenv("FLUX_SAFETY", "off")
    assert find_safety().folder is None


def test_another_setting_is_refused(monkeypatch):
    monkeypatch.setenv("FLUX_SAFETY", "yes")
    with pytest.raises(ValueError) as error:
        find_safety()
    assert_one_sentence(error.value, "FLUX_SAFETY is 'yes'", "expected required, optional or off")
