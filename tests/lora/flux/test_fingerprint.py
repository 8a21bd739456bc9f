"""Weights are told apart by their content, wherever they lie."""

import shutil

import pytest

from lora.flux import fingerprint as fingerprint_module
from lora.flux.fingerprint import fingerprint
from tests.tiny import TINY_FLUX


@pytest.fixture
def base(tmp_path):
    for part in ("vae", "tokenizer"):
        shutil.copytree(TINY_FLUX / part, tmp_path / "base" / part)
    return tmp_path / "base"


def test_the_same_weights_elsewhere_are_the_same(base):
    assert fingerprint(base, ["vae", "tokenizer"]) == fingerprint(TINY_FLUX, ["tokenizer", "vae"])


def test_another_part_is_another(base):
    assert fingerprint(base, ["vae"]) != fingerprint(base, ["tokenizer"])


@pytest.mark.parametrize("name", ["vae/config.json", "tokenizer/tokenizer.json"])
def test_a_changed_byte_of_a_small_file_is_seen(base, name):
    before = fingerprint(base, ["vae", "tokenizer"])
    content = bytearray((base / name).read_bytes())
    content[len(content) // 2] ^= 1
    (base / name).write_bytes(content)
    assert fingerprint(base, ["vae", "tokenizer"]) != before


def test_a_file_more_is_seen(base):
    before = fingerprint(base, ["vae"])
    (base / "vae/other.json").write_text("{}")
    assert fingerprint(base, ["vae"]) != before


def test_of_a_large_file_samples_from_end_to_end_are_read(base, monkeypatch):
    monkeypatch.setattr(fingerprint_module, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(fingerprint_module, "SAMPLE_BYTES", 10)
    path, before = base / "vae/large", None
    for changed in (None, 0, 50_000 - 1):
        content = bytearray(50_000)
        if changed is not None:
            content[changed] = 1
        path.write_bytes(content)
        assert fingerprint(base, ["vae"]) != before
        before = fingerprint(base, ["vae"])
