"""Where Hugging Face keeps a LoRA, from an API on this machine that answers as theirs does; C4 to C7."""

import pytest

from tests.services import a_network, send, send_json, service
from weights.grammar.records import HubLora
from weights.network.failures import NotFound
from weights.sources.hub import find_on_hub

COMMIT = "c0ffee" * 6 + "beef"


def sibling(name, sha256="AB" * 32):
    return {"rfilename": name, "size": 5, "lfs": {"sha256": sha256, "size": 5}}


def find(lora, *names, token="", siblings=None, sha=COMMIT):
    answer = {"sha": sha, "siblings": siblings if siblings is not None else [sibling(name) for name in names]}
    with service(lambda request, _: send_json(request, answer)) as it:
        wanted = find_on_hub(lora, token, a_network(it, hugging_face=it.url))
        return wanted.question.url.removeprefix(it.url), wanted, it


def refusal(lora, *names, **given):
    with pytest.raises(ValueError) as error:
        find(lora, *names, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_only_lora_of_a_repository_is_found_at_its_commit():
    """C4."""
    path, wanted, it = find(HubLora("o/r"), "README.md", "x.safetensors", "x.bin")
    assert path == f"/o/r/resolve/{COMMIT}/x.safetensors"
    assert wanted.sha256 == "ab" * 32
    assert it.paths() == ["/api/models/o/r/revision/main?blobs=true"]


def test_a_revision_and_a_folder_are_asked_for_in_one_piece():
    path, _, it = find(HubLora("o/r", "refs/pr/1", "a b"), "a b/x y.safetensors", "z.safetensors")
    assert path == f"/o/r/resolve/{COMMIT}/a%20b/x%20y.safetensors"
    assert it.paths() == ["/api/models/o/r/revision/refs%2Fpr%2F1?blobs=true"]


def test_a_named_file_is_taken_among_several():
    """C5."""
    path, _, _ = find(HubLora("o/r", "main", "b.safetensors"), "a.safetensors", "b.safetensors")
    assert path.endswith("/b.safetensors")


def test_several_loras_are_listed():
    message = refusal(HubLora("o/r"), *(f"{index}.safetensors" for index in range(9)))
    assert "9 .safetensors files ('0.safetensors'," in message
    assert "4 more" in message
    assert "hf://o/r/<file>.safetensors" in message


def test_a_repository_without_a_lora_is_told():
    assert "0 .safetensors files (none)" in refusal(HubLora("o/r"), "model.bin")


@pytest.mark.parametrize("path", ["no.safetensors", "README.md"])
def test_a_file_that_is_not_there_or_no_lora_is_told_with_those_that_are(path):
    assert "expected one of 'x.safetensors'" in refusal(HubLora("o/r", "main", path), "x.safetensors", "README.md")


def test_the_token_goes_by_header_alone():
    _, wanted, it = find(HubLora("o/r"), "x.safetensors", token="s3cret")
    assert it.asked[0].headers["authorization"] == "Bearer s3cret"
    assert wanted.question.token == "s3cret"
    assert "s3cret" not in it.paths()[0] + wanted.question.url


@pytest.mark.parametrize(("status", "found"), [(401, "needs a token"), (403, "licence"), (404, "no model o/r")])
def test_closed_and_missing_are_told_apart(status, found):
    """C7."""
    with (
        service(lambda request, _: send(request, status=status)) as it,
        pytest.raises(ValueError, match=found) as error,
    ):
        find_on_hub(HubLora("o/r"), "", a_network(it, hugging_face=it.url))
    assert isinstance(error.value, NotFound) == (status == 404)


def test_a_bad_token_is_told():
    """C7."""
    with (
        service(lambda request, _: send(request, status=401)) as it,
        pytest.raises(ValueError, match="closed to this token"),
    ):
        find_on_hub(HubLora("o/r"), "s3cret", a_network(it, hugging_face=it.url))


@pytest.mark.parametrize("siblings", [7, [7], [{}], [{"rfilename": 7}]])
def test_an_answer_of_another_form_is_no_crash(siblings):
    assert ".safetensors" in refusal(HubLora("o/r"), siblings=siblings)


def test_a_file_without_lfs_has_no_digest():
    for more in ({}, {"lfs": None}, {"lfs": {"sha256": None}}):
        assert find(HubLora("o/r"), siblings=[{"rfilename": "x.safetensors", **more}])[1].sha256 == ""
