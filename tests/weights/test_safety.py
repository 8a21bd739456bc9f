"""A deployment says whether what is drawn must be checked, and finds out at setup whether it can be."""

import hashlib

import huggingface_hub.constants
import pytest

from tests.loopback import QuietHandler
from tests.services import Service, send, send_json, service
from tests.tiny import assert_one_sentence
from weights import safety
from weights.safety import find_safety

COMMIT = "a" * 40
ON_THE_HUB = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"a pickle"}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """The place in weights/; the Hub is far away, and its cache empty."""
    monkeypatch.setattr(safety, "FOLDER", tmp_path / "safety")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("FLUX_SAFETY", raising=False)
    (tmp_path / "safety").mkdir()
    return tmp_path / "safety"


@pytest.fixture
def hub(monkeypatch):
    """One that has the checker."""
    with service(answer_as_the_hub) as it:
        template = f"{it.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", it.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield it


def answer_as_the_hub(request: QuietHandler, _service: Service) -> None:
    api, files = f"/api/models/{safety.REPOSITORY}", f"/{safety.REPOSITORY}/resolve/{COMMIT}/"
    if request.path == f"{api}/revision/main":
        send_json(request, {"id": safety.REPOSITORY, "sha": COMMIT, "siblings": []})
    elif request.path.startswith(f"{api}/tree/{COMMIT}"):
        send_json(request, [{"type": "file", "path": name, **listed(ON_THE_HUB[name])} for name in ON_THE_HUB])
    elif request.path.startswith(files):
        content = ON_THE_HUB[request.path.removeprefix(files)]
        send(request, content, **{"ETag": listed(content)["oid"], "X-Repo-Commit": COMMIT})
    else:
        request.send_error(404)


def listed(content: bytes) -> dict[str, object]:
    return {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}


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
    assert_one_sentence(error.value, "FLUX_SAFETY is required", "none came from huggingface.co/", "hf download")


def test_a_deployment_that_insists_fetches_it_from_the_hub_once_and_no_pickle(monkeypatch, hub):
    monkeypatch.setenv("FLUX_SAFETY", "required")
    found = find_safety()
    assert found.folder
    assert {path.name: path.read_bytes() for path in found.folder.iterdir()} == {
        name: content for name, content in ON_THE_HUB.items() if not name.endswith(".bin")
    }
    downloads = [path for path in hub.paths() if "/resolve/" in path]
    assert find_safety() == found
    assert [path for path in hub.paths() if "/resolve/" in path] == downloads


def test_what_the_hubs_cache_has_is_used_and_nobody_is_asked(monkeypatch, hub):
    monkeypatch.setenv("FLUX_SAFETY", "required")
    fetched = find_safety().folder
    monkeypatch.delenv("FLUX_SAFETY")
    asked = len(hub.asked)
    assert find_safety() == safety.Safety(fetched, can_be_disabled=True)
    assert len(hub.asked) == asked


def test_without_a_wish_nothing_is_fetched(hub):
    assert find_safety().folder is None
    assert not hub.asked


@pytest.mark.usefixtures("there")
def test_a_deployment_may_do_without(monkeypatch):
    monkeypatch.setenv("FLUX_SAFETY", "off")
    assert find_safety().folder is None


def test_another_setting_is_refused(monkeypatch):
    monkeypatch.setenv("FLUX_SAFETY", "yes")
    with pytest.raises(ValueError) as error:
        find_safety()
    assert_one_sentence(error.value, "FLUX_SAFETY is 'yes'", "expected required, optional or off")
