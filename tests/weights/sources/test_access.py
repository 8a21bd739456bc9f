"""Cache keys and credentials of remote LoRAs, without secrets; C44."""

import pytest

from weights.grammar.grammar import parse_reference
from weights.grammar.records import HubLora, Link
from weights.network.network import Tokens
from weights.sources.access import ANONYMOUS, access_to, token_for


def access(reference, **tokens):
    return access_to(parse_reference(reference), Tokens(**tokens))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h.example/x?X-Amz-Signature=a&X-Amz-Date=1", "https://h.example/x?X-Amz-Signature=b&X-Amz-Date=2"),
        ("https://h.example/x?Expires=1&Signature=a&Key-Pair-Id=k", "https://h.example/x?Expires=2&Signature=b"),
        ("https://h.example/x?X-Goog-Signature=a", "https://h.example/x"),
        ("https://h.example/x?sv=1&se=2&sig=a", "https://h.example/x?sv=3&se=4&sig=b"),
        ("https://h.example/x?token=a", "https://h.example/x?token=b"),
        ("https://h.example/x?access_token=a", "https://h.example/x?api_key=b"),
        ("https://h.example/x?X-Tos-Signature=a&X-Tos-Date=1", "https://h.example/x?X-Tos-Signature=b&X-Tos-Date=2"),
        ("https://h.example/x?X-Obs-Signature=a", "https://h.example/x?AccessKeyId=k&Expires=1&Signature=b"),
        ("https://h.example/x?OSSAccessKeyId=a&security-token=t&Signature=s", "https://h.example/x?x-oss-signature=b"),
        ("https://h.example/x?q-ak=a&q-sign-time=1&q-key-time=1&q-signature=s", "https://h.example/x?q-signature=b"),
        ("https://H.example/x#part", "https://h.example/x"),
        ("civitai.com/api/download/models/1?token=a", "civitai.com/api/download/models/1"),
        ("https://huggingface.co/o/r/blob/main/x.safetensors", "hf://o/r/x.safetensors"),
    ],
)
def test_references_that_differ_only_in_secrets_have_the_same_key(one, other):
    assert access(one).key == access(other).key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h.example/x?id=1", "https://h.example/x?id=2"),
        ("https://h.example/x?se=1", "https://h.example/x?se=2"),
        ("https://h.example/x?x-oss-process=a", "https://h.example/x?x-oss-process=b"),
        ("https://h.example/x", "https://h.example/X"),
        ("https://h.example/x", "https://i.example/x"),
        ("o/r:a", "o/r:b"),
        ("hf:o/r", "replicate.com/o/r"),
        ("hf:o/r", "hf:o/s"),
        ("hf://o/r@a", "hf://o/r@b"),
        ("civitai.com/models/1", "civitai.com/api/download/models/1"),
    ],
)
def test_references_to_different_files_have_different_keys(one, other):
    assert access(one).key != access(other).key


def test_a_request_without_a_secret_is_anonymous():
    assert access("hf:o/r").credential == access("https://h.example/x?id=1").credential == ANONYMOUS
    assert access("hf:o/r", civitai="a").credential == ANONYMOUS


def test_different_tokens_or_signatures_are_different_credentials():
    assert access("hf:o/r", hugging_face="a").credential != access("hf:o/r", hugging_face="b").credential
    assert access("https://h.example/x?Signature=a").credential != access("https://h.example/x?Signature=b").credential
    assert access("civitai.com/models/1?token=a").credential == access("civitai.com/models/1", civitai="a").credential


def test_a_key_and_a_credential_contain_no_secret():
    shown = repr(access("civitai.com/models/1?token=s3cret")) + repr(access("hf:o/r", hugging_face="s3cret"))
    assert "s3cret" not in shown


def test_a_token_is_used_for_its_own_service_only():
    tokens = Tokens(hugging_face="h\n", civitai="c", replicate="r")
    assert token_for(HubLora("o/r"), tokens) == "h"
    assert token_for(parse_reference("civitai.com/models/1?token=x"), tokens) == "c"
    assert token_for(parse_reference("o/r:1"), tokens) == "r"
    assert token_for(Link("https://huggingface.co.evil.com/a/b"), tokens) == ""
    assert "h" not in repr(tokens).replace("Tokens", "")
