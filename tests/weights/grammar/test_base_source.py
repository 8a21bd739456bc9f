"""What FLUX_BASE_URL and `script/download` take, and what they refuse in one sentence."""

import pytest

from weights.grammar.base_source import HubBase, TarBase, is_hub_name, parse_base_source

SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf://o/r", HubBase("o/r", "main")),
        ("hf://o/r@v1.0", HubBase("o/r", "v1.0")),
        ("hf:o/r", HubBase("o/r", "main")),
        ("hf://o/r@refs/pr/3", HubBase("o/r", "refs/pr/3")),
        ("https://huggingface.co/o/r", HubBase("o/r", "main")),
        ("https://huggingface.co/o/r/tree/v2", HubBase("o/r", "v2")),
        ("https://h.test/a/flux.tar", TarBase("https://h.test/a/flux.tar", "")),
        ("https://h.test/f?id=1&sig=x", TarBase("https://h.test/f?id=1&sig=x", "")),
        (f"https://h.test/flux.tar#sha256={SHA256.upper()}", TarBase("https://h.test/flux.tar", SHA256)),
        (
            "https://huggingface.co/o/r/resolve/main/flux.tar",
            TarBase("https://huggingface.co/o/r/resolve/main/flux.tar", ""),
        ),
    ],
)
def test_a_source_is_a_repository_or_a_tar(text, source):
    assert parse_base_source(text) == source


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http://h.test/flux.tar", "is neither a repository on Hugging Face nor an https URL"),
        ("file:///weights/dev", "is neither"),
        ("weights/dev", "is neither"),
        ("o/r", "is neither"),
        ("hf://o", "is not a model on Hugging Face"),
        ("hf://o/r/vae", "names a part of the repository o/r: expected all of it, hf://o/r"),
        ("hf://o/../r", "plain names"),
        ("https://huggingface.co/datasets/o/r", "one of its datasets"),
        ("https://user:pass@h.test/flux.tar", "has a user in its URL"),
        ("https://h.test/flux.tar#sha256=12", "has an unknown part after #"),
        ("https://h.test/\x1b[31m", "invisible characters"),
    ],
)
def test_what_is_no_source_is_refused_without_secrets(text, found):
    with pytest.raises(ValueError, match=r"^(is|has|names|contains)") as error:
        parse_base_source(text)
    assert found in str(error.value)
    assert "pass" not in str(error.value).replace("pass tokens", "")


def test_a_base_is_called_after_its_repository_or_its_tar():
    assert HubBase("o/r", "v1").name == "o/r"
    assert TarBase("https://h.test/a/my%20flux.tar.gz?sig=x", "").name == "my flux"
    assert TarBase("https://h.test/", "").name == "tar"


def test_a_source_is_shown_without_its_signature():
    assert str(TarBase("https://h.test/a.tar?sig=s3cret", "")) == "https://h.test/a.tar"
    assert "s3cret" not in repr(TarBase("https://h.test/a.tar?sig=s3cret", ""))


@pytest.mark.parametrize(
    ("text", "is_name"), [("o/r", True), ("weights/my/base", False), ("dev", False), ("/o", False)]
)
def test_owner_and_name_are_told_from_other_paths(text, is_name):
    assert is_hub_name(text) == is_name
