"""What tells one remote LoRA from another, without secrets, and who asks for it; C44."""

import pytest

from weights.grammar.grammar import parse_reference
from weights.grammar.records import HubLora, Link
from weights.network.network import Tokens
from weights.sources.access import NOBODY, access_to, token_for


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
def test_what_differs_only_by_its_secrets_has_one_key(one, other):
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
def test_what_names_something_else_has_another_key(one, other):
    assert access(one).key != access(other).key


def test_who_shows_nothing_is_nobody():
    assert access("hf:o/r").by == access("https://h.example/x?id=1").by == NOBODY
    assert access("hf:o/r", civitai="a").by == NOBODY


def test_who_shows_another_token_or_signature_is_another():
    assert access("hf:o/r", hugging_face="a").by != access("hf:o/r", hugging_face="b").by
    assert access("https://h.example/x?Signature=a").by != access("https://h.example/x?Signature=b").by
    assert access("civitai.com/models/1?token=a").by == access("civitai.com/models/1", civitai="a").by


def test_a_key_and_a_visitor_hold_no_secret():
    shown = repr(access("civitai.com/models/1?token=s3cret")) + repr(access("hf:o/r", hugging_face="s3cret"))
    assert "s3cret" not in shown


def test_a_token_is_for_its_own_service_only():
    tokens = Tokens(hugging_face="h\n", civitai="c", replicate="r")
    assert token_for(HubLora("o/r"), tokens) == "h"
    assert token_for(parse_reference("civitai.com/models/1?token=x"), tokens) == "c"
    assert token_for(parse_reference("o/r:1"), tokens) == "r"
    assert token_for(Link("https://huggingface.co.evil.com/a/b"), tokens) == ""
    assert "h" not in repr(tokens).replace("Tokens", "")
