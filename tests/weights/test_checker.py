"""A deployment configures whether images must be checked, and the setup fails if they cannot be."""

import hashlib

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save

from tests.loopback import QuietHandler
from tests.services import Service, send, send_json, service
from tests.tiny import assert_one_sentence
from weights import checker as safety
from weights.checker import find_safety

COMMIT = "a" * 40
HUB_FILES = {
    "config.json": b"{}",
    "model.safetensors": save({"head": torch.ones(2)}),
    "pytorch_model.bin": b"a pickle",
}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """The folder of the checker in weights/, which is missing. The Hub is unreachable, and its cache empty."""
    monkeypatch.setattr(safety, "FOLDER", tmp_path / "safety")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("FLUX_SAFETY", raising=False)
    return tmp_path / "safety"


@pytest.fixture
def hub(monkeypatch):
    """A Hub that hosts the checker."""
    with service(respond_as_hub) as server:
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def respond_as_hub(request: QuietHandler, _service: Service) -> None:
    api, files = f"/api/models/{safety.REPOSITORY}", f"/{safety.REPOSITORY}/resolve/{COMMIT}/"
    if request.path == f"{api}/revision/main":
        send_json(request, {"id": safety.REPOSITORY, "sha": COMMIT, "siblings": []})
    elif request.path.startswith(f"{api}/tree/{COMMIT}"):
        send_json(request, [{"type": "file", "path": name, **file_info(HUB_FILES[name])} for name in HUB_FILES])
    elif request.path.startswith(files):
        content = HUB_FILES[request.path.removeprefix(files)]
        send(request, content, **{"ETag": file_info(content)["oid"], "X-Repo-Commit": COMMIT})
    else:
        request.send_error(404)


def file_info(content: bytes) -> dict[str, object]:
    return {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@pytest.fixture
def checker(folder):
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(HUB_FILES[name])
    return folder


def test_without_a_checker_images_are_not_checked_and_the_log_says_so():
    found = find_safety()
    assert found.folder is None
    assert "images are not checked" in found.line()
    assert "hf download Falconsai/nsfw_image_detection" in found.line()


def test_an_installed_checker_is_used_and_a_request_may_disable_it(checker):
    assert find_safety() == safety.Safety(checker, can_be_disabled=True)


@pytest.mark.parametrize("setting", ["required", "optional"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_with_a_missing_file_is_an_error(monkeypatch, checker, setting, name):
    monkeypatch.setenv("FLUX_SAFETY", setting)
    (checker / name).unlink()
    with pytest.raises(FileNotFoundError) as error:
        find_safety()
    assert_one_sentence(error.value, f"{checker / name} is missing: expected", "hf download")


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"", "an empty file"), (b"<html>404</html>", "a web page"), (HUB_FILES["model.safetensors"][:-1], "cut short")],
)
def test_the_error_for_a_checker_with_damaged_weights_contains_its_remedy(checker, content, found):
    (checker / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError) as error:
        find_safety()
    assert_one_sentence(error.value, f"the safety checker: {checker / 'model.safetensors'}", found, "then `hf download")


def test_a_request_cannot_disable_a_required_checker(monkeypatch, checker):
    monkeypatch.setenv("FLUX_SAFETY", "required")
    assert find_safety() == safety.Safety(checker, can_be_disabled=False)


def test_the_setup_fails_without_a_required_checker(monkeypatch):
    monkeypatch.setenv("FLUX_SAFETY", "required")
    with pytest.raises(FileNotFoundError) as error:
        find_safety()
    found = ("FLUX_SAFETY is required", "none could be downloaded from huggingface.co/", "hf download")
    assert_one_sentence(error.value, *found)


def test_a_required_checker_is_downloaded_from_the_hub_once_and_without_the_pickle(monkeypatch, hub):
    monkeypatch.setenv("FLUX_SAFETY", "required")
    found = find_safety()
    assert found.folder
    assert {path.name: path.read_bytes() for path in found.folder.iterdir()} == {
        name: content for name, content in HUB_FILES.items() if not name.endswith(".bin")
    }
    downloads = [path for path in hub.paths() if "/resolve/" in path]
    assert find_safety() == found
    assert [path for path in hub.paths() if "/resolve/" in path] == downloads


def test_a_checker_in_the_cache_of_the_hub_is_used_without_a_request(monkeypatch, hub):
    monkeypatch.setenv("FLUX_SAFETY", "required")
    fetched = find_safety().folder
    monkeypatch.delenv("FLUX_SAFETY")
    count = len(hub.requests)
    assert find_safety() == safety.Safety(fetched, can_be_disabled=True)
    assert len(hub.requests) == count


def test_an_optional_checker_is_not_downloaded(hub):
    assert find_safety().folder is None
    assert not hub.requests


@pytest.mark.usefixtures("checker")
def test_a_deployment_can_turn_the_checker_off(monkeypatch):
    monkeypatch.setenv("FLUX_SAFETY", "off")
    assert find_safety().folder is None


def test_another_setting_is_refused(monkeypatch):
    monkeypatch.setenv("FLUX_SAFETY", "yes")
    with pytest.raises(ValueError) as error:
        find_safety()
    assert_one_sentence(error.value, "FLUX_SAFETY is 'yes'", "expected required, optional or off")
