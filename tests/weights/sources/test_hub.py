"""LoRAs on Hugging Face, found through a server on this machine with the responses of its API; C4 to C7."""

import pytest

from tests.services import a_network, send, send_json, service
from weights.grammar.records import HubLora
from weights.network.failures import NotFound
from weights.sources.hub import find_on_hub

COMMIT = "c0ffee" * 6 + "beef"


def sibling(name, sha256="AB" * 32):
    return {"rfilename": name, "size": 5, "lfs": {"sha256": sha256, "size": 5}}


def find_file(lora, *names, token="", siblings=None, sha=COMMIT):
    response = {"sha": sha, "siblings": siblings if siblings is not None else [sibling(name) for name in names]}
    with service(lambda request, _: send_json(request, response)) as server:
        remote_file = find_on_hub(lora, token, a_network(server, hugging_face=server.url))
        return remote_file.request.url.removeprefix(server.url), remote_file, server


def refusal(lora, *names, **options):
    with pytest.raises(ValueError) as error:
        find_file(lora, *names, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_only_lora_of_a_repository_is_found_at_its_commit():
    """C4."""
    path, remote_file, server = find_file(HubLora("o/r"), "README.md", "x.safetensors", "x.bin")
    assert path == f"/o/r/resolve/{COMMIT}/x.safetensors"
    assert remote_file.sha256 == "ab" * 32
    assert server.paths() == ["/api/models/o/r/revision/main?blobs=true"]


def test_a_revision_and_a_folder_are_quoted_in_urls():
    path, _, server = find_file(HubLora("o/r", "refs/pr/1", "a b"), "a b/x y.safetensors", "z.safetensors")
    assert path == f"/o/r/resolve/{COMMIT}/a%20b/x%20y.safetensors"
    assert server.paths() == ["/api/models/o/r/revision/refs%2Fpr%2F1?blobs=true"]


def test_a_named_file_is_chosen_among_several():
    """C5."""
    path, _, _ = find_file(HubLora("o/r", "main", "b.safetensors"), "a.safetensors", "b.safetensors")
    assert path.endswith("/b.safetensors")


def test_the_error_for_several_loras_lists_them():
    message = refusal(HubLora("o/r"), *(f"{index}.safetensors" for index in range(9)))
    assert "9 .safetensors files ('0.safetensors'," in message
    assert "4 more" in message
    assert "hf://o/r/<file>.safetensors" in message


def test_a_repository_without_a_lora_is_refused():
    assert "0 .safetensors files (none)" in refusal(HubLora("o/r"), "model.bin")


def test_the_error_for_pickles_says_that_they_are_not_read():
    message = refusal(HubLora("o/r"), "model.bin", "README.md")
    assert "0 .safetensors files (none); pickles, such as 'model.bin', are not read" in message


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("x.safetensors", "checkpoint-500/x.safetensors"), "x.safetensors"),
        (("a.safetensors", "pytorch_lora_weights.safetensors"), "pytorch_lora_weights.safetensors"),
        (("a.safetensors", "comfyui/a.safetensors", "other/b.safetensors"), "a.safetensors"),
    ],
)
def test_the_final_file_of_several_is_chosen_and_noted(names, chosen):
    path, remote_file, _ = find_file(HubLora("o/r"), *names)
    assert path == f"/o/r/resolve/{COMMIT}/{chosen}"
    assert remote_file.note == f"has {len(names)} .safetensors files: {chosen!r} is used"


@pytest.mark.parametrize("folder", ["", "a/"])
def test_the_settings_of_peft_beside_the_file_are_found(folder):
    names = f"{folder}adapter_model.safetensors", f"{folder}adapter_config.json", "b/adapter_config.json"
    _, remote_file, server = find_file(HubLora("o/r"), *names, token="s3cret")
    assert remote_file.config.url == f"{server.url}/o/r/resolve/{COMMIT}/{folder}adapter_config.json"
    assert remote_file.config.token == "s3cret"


def test_settings_that_are_too_large_or_elsewhere_are_not_downloaded():
    siblings = [sibling("a/x.safetensors"), sibling("adapter_config.json")]
    assert find_file(HubLora("o/r"), siblings=siblings)[1].config is None
    siblings = [sibling("x.safetensors"), sibling("adapter_config.json") | {"size": 2**21}]
    assert find_file(HubLora("o/r"), siblings=siblings)[1].config is None


@pytest.mark.parametrize("token", ["", "s3cret"])
def test_an_error_about_access_names_the_input(token):
    with (
        service(lambda request, _: send(request, status=401)) as server,
        pytest.raises(ValueError, match="hf_api_token"),
    ):
        find_on_hub(HubLora("o/r"), token, a_network(server, hugging_face=server.url))


@pytest.mark.parametrize("path", ["no.safetensors", "README.md"])
def test_the_error_for_a_missing_file_or_another_format_lists_the_loras(path):
    assert "expected one of 'x.safetensors'" in refusal(HubLora("o/r", "main", path), "x.safetensors", "README.md")


def test_the_token_is_sent_in_a_header_only():
    _, remote_file, server = find_file(HubLora("o/r"), "x.safetensors", token="s3cret")
    assert server.requests[0].headers["authorization"] == "Bearer s3cret"
    assert remote_file.request.token == "s3cret"
    assert "s3cret" not in server.paths()[0] + remote_file.request.url


@pytest.mark.parametrize(("status", "found"), [(401, "needs a token"), (403, "licence"), (404, "no model o/r")])
def test_private_and_missing_models_are_distinguished(status, found):
    """C7."""
    with (
        service(lambda request, _: send(request, status=status)) as server,
        pytest.raises(ValueError, match=found) as error,
    ):
        find_on_hub(HubLora("o/r"), "", a_network(server, hugging_face=server.url))
    assert isinstance(error.value, NotFound) == (status == 404)


def test_a_token_without_access_is_reported():
    """C7."""
    with (
        service(lambda request, _: send(request, status=401)) as server,
        pytest.raises(ValueError, match="not accessible with this token"),
    ):
        find_on_hub(HubLora("o/r"), "s3cret", a_network(server, hugging_face=server.url))


@pytest.mark.parametrize("siblings", [7, [7], [{}], [{"rfilename": 7}]])
def test_a_response_with_an_unexpected_structure_is_refused(siblings):
    assert ".safetensors" in refusal(HubLora("o/r"), siblings=siblings)


def test_a_file_without_lfs_has_no_digest():
    for lfs in ({}, {"lfs": None}, {"lfs": {"sha256": None}}):
        assert find_file(HubLora("o/r"), siblings=[{"rfilename": "x.safetensors", **lfs}])[1].sha256 == ""
