"""Weights are identified by their content, wherever they are."""

import shutil

import pytest

from lora.base import fingerprint as fingerprint_module
from lora.base.fingerprint import fingerprint
from tests.tiny import TINY_FLUX


@pytest.fixture
def base(tmp_path):
    for component in ("vae", "tokenizer"):
        shutil.copytree(TINY_FLUX / component, tmp_path / "base" / component)
    return tmp_path / "base"


def test_the_same_weights_elsewhere_have_the_same_fingerprint(base):
    assert fingerprint(base, ["vae", "tokenizer"]) == fingerprint(TINY_FLUX, ["tokenizer", "vae"])


def test_another_component_has_another_fingerprint(base):
    assert fingerprint(base, ["vae"]) != fingerprint(base, ["tokenizer"])


@pytest.mark.parametrize("name", ["vae/config.json", "tokenizer/tokenizer.json"])
def test_a_changed_byte_of_a_small_file_changes_the_fingerprint(base, name):
    before = fingerprint(base, ["vae", "tokenizer"])
    content = bytearray((base / name).read_bytes())
    content[len(content) // 2] ^= 1
    (base / name).write_bytes(content)
    assert fingerprint(base, ["vae", "tokenizer"]) != before


def test_an_additional_file_changes_the_fingerprint(base):
    before = fingerprint(base, ["vae"])
    (base / "vae/other.json").write_text("{}")
    assert fingerprint(base, ["vae"]) != before


def test_a_large_file_is_sampled_from_start_to_end(base, monkeypatch):
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
