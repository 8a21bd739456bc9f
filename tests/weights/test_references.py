"""What a person gives as a LoRA: a path or a data URI, a file or a tar; read, or refused in one sentence."""

import base64
import hashlib
import io
import tarfile

import pytest
import torch
from safetensors.torch import save

from tests.tiny import assert_one_sentence, write
from weights.references import read_lora

LORA = {
    "transformer.x_embedder.lora_A.weight": torch.ones(2, 4),
    "transformer.x_embedder.lora_B.weight": torch.ones(3, 2),
}
CONTENT = save(LORA)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def member(name, content=b"", **changes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in changes.items():
        setattr(info, attribute, value)
    return info, content


def a_tar(*members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def refusal(reference):
    with pytest.raises(ValueError) as error:
        read_lora(reference, named="lora_weights")
    assert_one_sentence(error.value, "lora_weights")
    assert len(str(error.value)) < 400
    return str(error.value)


def refusal_of(tmp_path, content, name="lora.tar"):
    return refusal(str(write(tmp_path / name, content)))


def uri(content):
    return "data:application/octet-stream;base64," + base64.b64encode(content).decode()


def assert_read(reference):
    lora = read_lora(reference, named="lora_weights")
    assert lora.digest == DIGEST
    assert all(torch.equal(lora.tensors[name], tensor) for name, tensor in LORA.items())


def test_a_file_is_read(tmp_path):
    assert_read(str(write(tmp_path / "lora.safetensors", CONTENT)))


def test_spaces_around_a_path_do_not_count(tmp_path):
    assert_read(f" {write(tmp_path / 'lora.safetensors', CONTENT)}\n")


def test_a_training_tar_is_read_as_the_file_inside(tmp_path):
    tar = a_tar(member("output/flux_train_replicate/lora.safetensors", CONTENT), member("output/a.txt", b"a dog"))
    assert_read(str(write(tmp_path / "trained_model.tar", tar)))


def test_data_uris_are_read_like_files():
    assert_read(uri(CONTENT))
    assert_read(uri(a_tar(member("lora.safetensors", CONTENT))))


def test_the_content_decides_and_not_the_suffix(tmp_path):
    assert_read(str(write(tmp_path / "lora.tar", CONTENT)))
    assert_read(str(write(tmp_path / "lora.safetensors", a_tar(member("x.safetensors", CONTENT)))))


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ([], "0 .safetensors files (none)"),
        ([member("a.txt", b"x")], "0 .safetensors files (none)"),
        (
            [member("a.safetensors", CONTENT), member("b/c.safetensors", CONTENT)],
            "('a.safetensors', 'b/c.safetensors')",
        ),
        ([member("a.safetensors", type=tarfile.SYMTYPE, linkname="/etc/passwd"), member("a", b"")], "0 .safetensors"),
        ([member("a.safetensors", type=tarfile.LNKTYPE, linkname="/etc/passwd"), member("a", b"")], "0 .safetensors"),
        ([member("a.safetensors", type=tarfile.FIFOTYPE), member("a", b"")], "0 .safetensors"),
        ([member("a.safetensors", type=tarfile.DIRTYPE), member("a", b"")], "0 .safetensors"),
    ],
)
def test_a_tar_has_exactly_one_lora(tmp_path, members, found):
    """Trap 49."""
    content = a_tar(*members) if members else a_tar(member("empty", b""))
    assert found in refusal_of(tmp_path, content)


def test_what_macos_adds_to_a_tar_does_not_count(tmp_path):
    tar = a_tar(member("._lora.safetensors", b"junk"), member("lora.safetensors", CONTENT))
    assert_read(str(write(tmp_path / "lora.tar", tar)))


def test_names_in_a_tar_write_nothing(tmp_path):
    assert_read(str(write(tmp_path / "lora.tar", a_tar(member("../../evil.safetensors", CONTENT)))))
    assert [path.name for path in tmp_path.iterdir()] == ["lora.tar"]


@pytest.mark.parametrize("length", [300, 600, 700])
def test_a_tar_cut_off_is_refused(tmp_path, length):
    refusal_of(tmp_path, a_tar(member("lora.safetensors", CONTENT))[:length])


def test_the_names_in_a_tar_do_not_flood_an_error(tmp_path):
    names = [f"{index}\n{'x' * 300}.safetensors" for index in range(50)]
    message = refusal_of(tmp_path, a_tar(*(member(name, CONTENT) for name in names)))
    assert "50 .safetensors files" in message
    assert len(message) < 1000


def test_a_chain_of_headers_without_end_is_damage(tmp_path):
    link = tarfile.TarInfo("x")
    link.type = tarfile.XHDTYPE
    assert "damaged tar" in refusal_of(tmp_path, link.tobuf(tarfile.USTAR_FORMAT) * 2000)


def test_a_sparse_member_does_not_fill_the_memory(tmp_path):
    """A few hundred bytes that say they are a tebibyte of zeros."""
    info = tarfile.TarInfo("lora.safetensors")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"\x80" + (2**40).to_bytes(11, "big")  # the real size; no piece of it is stored
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    assert "a file of 1,099,511,627,776 bytes" in refusal_of(tmp_path, bytes(header) + bytes(1024))


@pytest.mark.parametrize(
    "reference",
    [
        "data:,hello",
        "data:application/octet-stream;base64",
        "data:application/octet-stream;base64,####",
        "data:application/octet-stream;base64,abc",
        "data:text/plain,abc",
        "data:;base64,é",
    ],
)
def test_a_damaged_data_uri_is_refused(reference):
    assert "data URI" in refusal(reference)


def test_a_long_data_uri_is_shown_by_its_start():
    shown = refusal(uri(b"no lora" * 1000))
    assert "'data:" in shown
    assert len(shown) < 300


def test_a_long_path_is_shown_by_its_end():
    shown = refusal(f"/{'folder/' * 100}mine.safetensors")
    assert "/mine.safetensors'" in shown
    assert len(shown) < 300


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "lora",
        "/none/lora.safetensors",
        "/etc/passwd",
        "/tmp",
        "a\0b.safetensors",
        "a\nb.safetensors",
        "x" * 4000 + ".safetensors",
    ],
)
def test_what_is_not_there_is_refused(reference):
    assert "expected the path of a .safetensors or .tar" in refusal(reference)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x80\x04.", bytes(700)])
def test_a_file_that_is_no_lora_is_refused_by_name(tmp_path, content):
    assert "lora.safetensors" in refusal_of(tmp_path, content, "lora.safetensors")
