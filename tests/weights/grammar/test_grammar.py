"""The grammar of LoRA references, without any request; reference/reliability.md, C1 to C20."""

import socket
from pathlib import Path

import pytest

from weights.grammar.grammar import parse_reference
from weights.grammar.records import CivitaiLora, HubLora, Inline, Link, LocalFile, ReplicateLora, UnqualifiedLora


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the grammar asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def refusal(reference):
    with pytest.raises(ValueError) as error:
        parse_reference(reference)
    assert "\n" not in str(error.value)
    assert "expected" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("reference", ["owner/model", "owner/model/", "  owner/model\n"])
def test_owner_and_name_without_a_host_are_unqualified(reference):
    """C1."""
    assert parse_reference(reference) == UnqualifiedLora("owner", "model")


@pytest.mark.parametrize(
    "reference", ["replicate.com/owner/model", "HTTPS://www.Replicate.com/owner/model/", "r8.im/owner/model"]
)
def test_a_page_on_replicate(reference):
    assert parse_reference(reference) == ReplicateLora("owner", "model")


@pytest.mark.parametrize(
    "reference",
    [
        "owner/model/abc123",
        "owner/model/versions/abc123",
        "owner/model:abc123",
        "https://replicate.com/owner/model/versions/abc123",
        "replicate.com/owner/model/abc123",
        "https://replicate.com/owner/model/versions/abc123/api",
        "https://replicate.com/owner/model:abc123",
        "https://replicate.com/owner/model/versions/abc123/_weights",
        "r8.im/owner/model@sha256:abc123",
    ],
)
def test_a_version_on_replicate(reference):
    """C2."""
    assert parse_reference(reference) == ReplicateLora("owner", "model", "abc123")


@pytest.mark.parametrize(
    "reference",
    [
        "huggingface.co/o/R.x",
        "https://huggingface.co/o/R.x/",
        "http://huggingface.co/o/R.x",
        "HTTPS://HUGGINGFACE.CO/o/R.x",
        "hf.co/o/R.x",
        "hf:o/R.x",
        "hf://o/R.x",
        "https://huggingface.co/o/R.x/tree/main",
        "https://huggingface.co/o/R.x?library=diffusers",
    ],
)
def test_a_repository_on_hugging_face(reference):
    """C4."""
    assert parse_reference(reference) == HubLora("o/R.x")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("huggingface.co/o/r/x.safetensors", HubLora("o/r", "main", "x.safetensors")),
        ("huggingface.co/o/r/sub/x.safetensors", HubLora("o/r", "main", "sub/x.safetensors")),
        ("https://huggingface.co/o/r/resolve/main/x.safetensors", HubLora("o/r", "main", "x.safetensors")),
        ("https://huggingface.co/o/r/blob/v1/d/x.safetensors", HubLora("o/r", "v1", "d/x.safetensors")),
        ("https://huggingface.co/o/r/blob/main/a%20b.safetensors", HubLora("o/r", "main", "a b.safetensors")),
        (
            "https://huggingface.co/o/r/resolve/main/x.safetensors?download=true",
            HubLora("o/r", "main", "x.safetensors"),
        ),
        (
            "https://huggingface.co/o/r/resolve/refs%2Fpr%2F1/x.safetensors",
            HubLora("o/r", "refs/pr/1", "x.safetensors"),
        ),
        ("https://huggingface.co/o/r/blob/refs/pr/1/x.safetensors", HubLora("o/r", "refs/pr/1", "x.safetensors")),
        ("https://huggingface.co/o/r/tree/main/sub", HubLora("o/r", "main", "sub")),
        ("hf://o/r/x.safetensors", HubLora("o/r", "main", "x.safetensors")),
        ("hf://o/r@v1/d/x.safetensors", HubLora("o/r", "v1", "d/x.safetensors")),
        ("hf://o/r@refs/pr/1/x.safetensors", HubLora("o/r", "refs/pr/1", "x.safetensors")),
    ],
)
def test_a_file_on_hugging_face_with_its_revision(reference, expected):
    """C5."""
    assert parse_reference(reference) == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("civitai.com/models/618692", CivitaiLora(618692)),
        ("https://civitai.com/models/618692/a-slug", CivitaiLora(618692)),
        ("https://civitai.com/models/618692?modelVersionId=691639", CivitaiLora(618692, 691639)),
        ("https://civitai.com/models/618692/a-slug?modelVersionId=691639", CivitaiLora(618692, 691639)),
        ("civitai.red/models/618692", CivitaiLora(618692)),
        ("civitai.com/api/download/models/691639", CivitaiLora(None, 691639)),
        ("https://civitai.com/api/download/models/691639?type=Model&format=SafeTensor", CivitaiLora(None, 691639)),
        ("https://civitai.com/api/v1/model-versions/691639", CivitaiLora(None, 691639)),
        ("https://civitai.com/api/v1/models/618692", CivitaiLora(618692)),
        ("urn:air:flux1:lora:civitai:618692@691639", CivitaiLora(618692, 691639)),
        ("air:flux1d:lora:civitai:618692@691639", CivitaiLora(618692, 691639)),
        ("urn:air:flux2:lora:civitai:618692@691639", CivitaiLora(618692, 691639)),
        ("civitai:618692@691639", CivitaiLora(618692, 691639)),
        ("urn:air:flux1:lora:civitai:618692", CivitaiLora(618692)),
        ("urn:air:flux1:lora:civitai:618692@691639.safetensors", CivitaiLora(618692, 691639)),
    ],
)
def test_a_model_and_a_version_on_civitai_are_distinguished(reference, expected):
    """C8."""
    assert parse_reference(reference) == expected


def test_a_token_in_a_url_of_civitai_has_its_own_field_and_is_not_in_the_repr():
    lora = parse_reference("https://civitai.com/api/download/models/691639?token=s3cret")
    assert lora == CivitaiLora(None, 691639, "s3cret")
    assert "s3cret" not in repr(lora)


@pytest.mark.parametrize(
    "reference",
    [
        "https://h.example/x.safetensors?X-Amz-Signature=a%2Fb&b=",
        "https://replicate.delivery/xezq/abc/trained_model.tar",
        "https://replicate.delivery/xezq/abc/trained_model.tar?x=1",
        "https://any.example/dir/x.tar",
        "https://any.example/files/id/data",
    ],
)
def test_any_other_url_is_a_link(reference):
    """C11, C13."""
    assert parse_reference(reference) == Link(reference)
    assert "Signature" not in repr(parse_reference(reference))


def test_the_scheme_may_be_in_uppercase_and_is_optional_for_replicate_delivery():
    assert parse_reference("HTTPS://any.example/X.tar") == Link("https://any.example/X.tar")
    assert parse_reference("replicate.delivery/a/b.tar") == Link("https://replicate.delivery/a/b.tar")


@pytest.mark.parametrize(
    "reference", ["data:application/x-tar;base64,AAAA", "DATA:;base64,AAAA", "data:" + "A" * 10_000]
)
def test_a_data_uri_is_inline(reference):
    """C14."""
    assert parse_reference(reference) == Inline(reference)


@pytest.mark.parametrize("reference", ["../../secret/x.safetensors", "a/../../x.tar", "/a/../x.tgz"])
def test_a_path_with_parent_folders_is_refused(reference):
    """C17."""
    assert "is a path with ..: expected one without" in refusal(reference)


@pytest.mark.parametrize("reference", ["/a/x.safetensors", "x.tar", "./a b/x..tgz", "X.SAFETENSORS"])
def test_a_path_with_the_suffix_of_a_lora_or_a_tar_is_a_local_file(reference):
    assert parse_reference(reference) == LocalFile(Path(reference))


@pytest.mark.parametrize(
    "reference",
    [
        "",
        " ",
        "None",
        "lora",
        "./x",
        "../../etc/passwd",
        "a/b/../../c",
        "%2e%2e",
        "%2e%2e/x",
        "a//b",
        "a/b/c/d",
        "/etc/passwd",
        "ä/b",
    ],
)
def test_the_error_for_an_unknown_form_lists_all_forms(reference):
    """C16, C17."""
    message = refusal(reference)
    for form in (
        "owner/name",
        "huggingface.co/",
        "hf://",
        "civitai.com/models/",
        "urn:air:",
        "https URL",
        "data URI",
        ".safetensors",
    ):
        assert form in message


@pytest.mark.parametrize(
    "reference",
    [
        "file:///etc/passwd",
        "ftp://h.example/x.safetensors",
        "https://user:secret@h.example/x.safetensors",
        "https://huggingface.co/../x/y",
        "https://huggingface.co/o/%2e%2e",
        "https://huggingface.co/o/r/resolve/main/..%2f..%2fx.safetensors",
        "https://huggingface.co/o/r/resolve",
        "https://huggingface.co/o",
        "https://huggingface.co/datasets/o/r",
        "https://huggingface.co/spaces/o/r",
        "hf://o",
        "hf:",
        "hf://../r",
        "https://civitai.com/images/12",
        "https://civitai.com/models/abc",
        "https://civitai.com/models/12?modelVersionId=abc",
        "urn:air:sdxl:lora:civitai:1@2",
        "urn:air:flux1:checkpoint:civitai:1@2",
        "urn:air:flux1:lora:somewhere:1@2",
        "https://replicate.com/owner",
        "https://replicate.com/p/abcdef",
        "https://[::1/x",
        "https:///x.safetensors",
        "a\nb/c",
        "a\0b.safetensors",
    ],
)
def test_a_reference_with_a_mistake_is_refused(reference):
    message = refusal(reference)
    assert "secret" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "reference",
    ["https://huggingface.co.evil.com/a/b", "https://huggingfa\u0441e.co/a/b", "https://civitai.com.evil.com/models/1"],
)
def test_a_host_that_only_looks_like_a_service_is_a_link(reference):
    """C19: so that no token is sent to it."""
    assert isinstance(parse_reference(reference), Link)


@pytest.mark.parametrize("reference", [f"https://h.example/{'x' * 5000}", "x" * 10_000_000, f"hf://o/{'r' * 5000}"])
def test_a_reference_that_is_too_long_is_refused(reference):
    """C20."""
    assert "characters: expected at most 4,096" in refusal(reference)
