"""Damaged weights are refused with a description of the damage; undamaged weights pass."""

import json

import pytest
import torch
from safetensors.torch import save, save_file

from tests.tiny import TINY_FLUX, assert_one_sentence, write
from weights.weight_file import check_weight_file

LARGE = 1024, 512  # in bf16, 1 MiB


def file_bytes(header, *, data=b"", length=None):
    """The bytes of a safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin, end, *, dtype="F32", shape=(1,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


GOOD = save({"a": torch.ones(4, 3), "b": torch.ones(2)}, {"format": "pt"})
HEADER_BYTES = int.from_bytes(GOOD[:8], "little")
NUMBER = bytes(4)
DAMAGES = {
    "an empty file": (b"", "is not a safetensors file: found an empty file"),
    "fewer bytes than a length has": (GOOD[:5], "is not a safetensors file: found 5 other bytes"),
    "a length and nothing else": (GOOD[:8], "is not a safetensors file"),
    "zeros": (bytes(5000), "is not a safetensors file: found 5,000 bytes that begin with zeros"),
    "a web page": (b"\n<!DOCTYPE html><html></html>", "is not a safetensors file: found a web page"),
    "a pickle": (b"\x80\x02}q\x00." + bytes(2000), "is not a safetensors file"),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a git-lfs pointer"),
    "a cut in the header": (
        GOOD[:50],
        f"ends within its header: found 50 bytes, expected more than {8 + HEADER_BYTES}",
    ),
    "a cut in the tensors": (GOOD[:-7], f"7 bytes are missing: found {len(GOOD) - 7} bytes, expected {len(GOOD)}"),
    "no tensors but their header": (GOOD[: 8 + HEADER_BYTES], f"is cut short, {4 * 14} bytes are missing"),
    "bytes behind the end": (GOOD + b"12345", "is 5 bytes too long"),
    "a header of a forged length": (file_bytes(b"{}", length=2**62), "is not a safetensors file"),
    "a text that begins with a number": (
        file_bytes(b"hello", length=10_000),
        "is not a safetensors file: found 13 other bytes",
    ),
    "a header that is no JSON": (file_bytes(b'{"a": '), "is not a safetensors file"),
    "a header of brackets": (file_bytes(b'{"a":' + b"[" * 100_000), "is not a safetensors file"),
    "a header that is not text": (file_bytes(b"{\xff\xff}"), "is not a safetensors file"),
    "an offset that is negative": (file_bytes({"a": entry(-4, 0)}), "is not a safetensors file"),
    "an offset beyond all files": (file_bytes({"a": entry(0, 2**80)}), "is cut short"),
    "a tensor longer than its shape": (file_bytes({"a": entry(0, 8)}, data=NUMBER * 2), "is damaged"),
    "tensors that overlap": (file_bytes({"a": entry(0, 4), "b": entry(0, 4)}, data=NUMBER), "is damaged"),
    "a gap between tensors": (file_bytes({"a": entry(0, 4), "b": entry(8, 12)}, data=NUMBER * 3), "is damaged"),
    "a type that there is not": (file_bytes({"a": entry(0, 4, dtype="Q9")}, data=NUMBER), "is damaged"),
    "a type with escape codes": (file_bytes({"a": entry(0, 4, dtype="\x1b[31m\r\n")}, data=NUMBER), "is damaged"),
    "a tensor without offsets": (file_bytes({"a": {"dtype": "F32"}}), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_error_for_a_damaged_file_describes_the_damage(tmp_path, damage):
    content, found = DAMAGES[damage]
    file = write(tmp_path / "model.safetensors", content)
    with pytest.raises(ValueError) as error:
        check_weight_file(file)
    assert type(error.value) is ValueError
    assert_one_sentence(error.value, f"{file} ", found)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("file", sorted(TINY_FLUX.glob("*/*.safetensors")), ids=lambda file: file.parent.name)
def test_the_weights_of_the_tiny_base_pass(file):
    check_weight_file(file)


@pytest.mark.parametrize("content", [GOOD, save({}), save({"a": torch.zeros(0, 4)}), save({"a": torch.tensor(1.0)})])
def test_undamaged_files_pass(tmp_path, content):
    check_weight_file(write(tmp_path / "model.safetensors", content))


def saved(tmp_path, tensor):
    file = tmp_path / "model.safetensors"
    save_file({"before": torch.ones(3), "layer.weight": tensor, "later": torch.ones(5)}, file)
    return file


def test_a_matrix_with_a_hole_is_named(tmp_path):
    weight = torch.ones(LARGE, dtype=torch.bfloat16)
    check_weight_file(saved(tmp_path, weight))
    middle = weight.view(-1)[weight.numel() // 2 - 1024 : weight.numel() // 2 + 1024]
    middle.zero_()
    with pytest.raises(ValueError) as error:
        check_weight_file(saved(tmp_path, weight))
    assert_one_sentence(error.value, "is damaged: found only zeros in the middle of 'layer.weight'")
    middle[-1] = 1
    check_weight_file(saved(tmp_path, weight))


def test_a_large_vector_and_a_small_matrix_may_be_zero(tmp_path):
    check_weight_file(saved(tmp_path, torch.zeros(2**19)))
    check_weight_file(saved(tmp_path, torch.zeros(512, 511)))


def test_a_forged_length_takes_no_memory(tmp_path):
    """The length of the header is a terabyte, like the apparent size of the file."""
    file = tmp_path / "model.safetensors"
    with file.open("wb") as opened:
        opened.write(file_bytes(b"{", length=2**40 - 8))
        opened.truncate(2**40)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        check_weight_file(file)


def test_only_a_few_pages_of_large_weights_are_read(tmp_path):
    """A sparse file of 30 GB with a few KB on the disk."""
    side = 125_000
    header = json.dumps({"a": entry(0, side * side * 2, dtype="BF16", shape=(side, side))}).encode()
    file = tmp_path / "model.safetensors"
    with file.open("wb") as opened:
        opened.write(file_bytes(header))
        opened.seek(8 + len(header) + side * side)
        opened.write(b"weight")
        opened.truncate(8 + len(header) + side * side * 2)
    check_weight_file(file)
