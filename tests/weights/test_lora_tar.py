"""One LoRA out of a tar that anybody may have made, gzipped or not, without writing anything; C46 to C55."""

import gzip
import io
import tarfile
import time

import pytest

from weights import lora_tar
from weights.lora_tar import START, is_tar, lora_in_tar

CONTENT = b"the LoRA"


def a_tar(*files, mode="w", **changes):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for attribute, value in changes.items():
                setattr(info, attribute, value)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def read(content):
    return lora_in_tar(io.BytesIO(content))


def refusal(content):
    with pytest.raises(ValueError) as error:
        read(content)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("names", [("a/x.safetensors", "b.txt"), ("b.txt", "a/x.safetensors")])
def test_the_lora_is_found_gzipped_or_not_before_or_after_others(mode, names):
    content = a_tar(*((name, CONTENT if name.endswith("safetensors") else b"text") for name in names), mode=mode)
    assert is_tar(content[:START])
    assert read(content) == CONTENT


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar_is_known(tar_format):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        info = tarfile.TarInfo("dir/" * 20 + "x.safetensors")
        info.size = len(CONTENT)
        tar.addfile(info, io.BytesIO(CONTENT))
    assert is_tar(file.getvalue()[:START])
    assert read(file.getvalue()) == CONTENT


def test_no_lora_and_two_loras_are_refused():
    """C46, C47."""
    assert "0 .safetensors files (none)" in refusal(a_tar(("a.txt", b"x")))
    assert "2 .safetensors files ('a.safetensors', 'b.safetensors')" in refusal(
        a_tar(("a.safetensors", CONTENT), ("b.safetensors", CONTENT))
    )


@pytest.mark.parametrize("name", ["../../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors"])
def test_a_name_that_climbs_writes_nothing(name, tmp_path, monkeypatch):
    """C49."""
    monkeypatch.chdir(tmp_path)
    assert read(a_tar((name, CONTENT))) == CONTENT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_no_files(kind):
    """C50."""
    content = a_tar(("x.safetensors", b""), type=kind, linkname="/etc/passwd")
    assert "0 .safetensors files" in refusal(content)


@pytest.mark.parametrize("name", ["x.safetensors", "zeros.txt"])
def test_a_gzipped_bomb_is_stopped_at_the_limit(monkeypatch, name):
    """C52."""
    monkeypatch.setattr(lora_tar, "MOST_BYTES", 1_000_000)
    bomb = a_tar((name, bytes(30_000_000)), mode="w:gz")
    assert len(bomb) < 100_000
    assert "1,000,000" in refusal(bomb)


def test_a_gzipped_bomb_is_stopped_long_before_the_limit_of_honest_files(monkeypatch):
    """C52: a few megabytes must not become four gibibytes of memory."""
    monkeypatch.setattr(lora_tar, "UNSUSPICIOUS_BYTES", 1_000_000)
    bomb = a_tar(("x.safetensors", bytes(30_000_000)), mode="w:gz")
    assert "unpacks to more than 200 times its size" in refusal(bomb)


def test_a_tar_of_zeros_that_is_not_packed_is_no_bomb(monkeypatch):
    monkeypatch.setattr(lora_tar, "UNSUSPICIOUS_BYTES", 1000)
    assert read(a_tar(("x.safetensors", bytes(100_000)))) == bytes(100_000)


def test_members_that_unpack_to_much_together_are_stopped(monkeypatch):
    monkeypatch.setattr(lora_tar, "MOST_BYTES", 1_000_000)
    bomb = a_tar(*((f"{index}.txt", bytes(900_000)) for index in range(9)), mode="w:gz")
    assert "unpacks to more than 1,000,000 bytes" in refusal(bomb)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_tar_cut_off_is_damage(mode, kept):
    """C53."""
    content = a_tar(("x.safetensors", bytes(range(256)) * 40), mode=mode)
    message = refusal(content[: int((len(content) if mode == "w:gz" else 10_752) * kept)])
    assert "damaged tar" in message
    assert len(message) < 200


@pytest.mark.parametrize(
    "content",
    [b"", gzip.compress(b"", mtime=0), gzip.compress(b"no tar", mtime=0), b"\x1f\x8b", bytes(100)],
    ids=["nothing", "nothing, gzipped", "a text, gzipped", "the start of a gzip", "zeros"],
)
def test_what_is_no_tar_is_damage(content):
    """C53."""
    assert "damaged tar" in refusal(content) or "0 .safetensors" in refusal(content)


def test_a_size_that_a_pax_header_invents_is_refused():
    """C55."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x.safetensors")
        info.pax_headers = {"size": str(2**50)}
        tar.addfile(info)
    assert "a file of 1,125,899,906,842,624 bytes" in refusal(file.getvalue())


def with_header(headers, kind=tarfile.XHDTYPE):
    """A tar whose one LoRA comes after these records of a PAX header, or after this text of another."""
    records = headers if isinstance(headers, bytes) else b"".join(record(*pair) for pair in headers.items())
    before = tarfile.TarInfo("headers")
    before.type, before.size = kind, len(records)
    padded = records + bytes(-len(records) % tarfile.BLOCKSIZE)
    return before.tobuf(tarfile.USTAR_FORMAT) + padded + a_tar(("x.safetensors", CONTENT))


def record(name, value):
    text = f" {name}={value}\n".encode()
    length = len(text) + 1
    while length != len(f"{length}".encode() + text):
        length += 1
    return f"{length}".encode() + text


def test_headers_of_usual_size_are_read():
    assert read(with_header({"comment": "x" * 1000})) == CONTENT


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_larger_than_any_file_needs_are_not_read(kind):
    """C55: 200 MiB of them took seconds and three times the memory, in a data URI of 3 MB."""
    header = tarfile.TarInfo("headers")
    header.type, header.size = kind, 200 * 2**20
    assert "over 1,048,576 bytes of headers" in refusal(header.tobuf(tarfile.USTAR_FORMAT))


def test_headers_count_together(monkeypatch):
    monkeypatch.setattr(lora_tar, "MOST_HEADER_BYTES", 3000)
    one = with_header({"comment": "x" * 1000})
    assert "over 3,000 bytes of headers" in refusal(one[: -tarfile.RECORDSIZE] * 4)


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "0,8", "GNU.sparse.size": "8"},
        {"GNU.sparse.map": "a,b", "GNU.sparse.size": "8"},
        {"GNU.sparse.size": "zz", "GNU.sparse.offset": "0"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "8"},
    ],
)
def test_a_sparse_file_is_refused_in_a_sentence_of_ours(headers):
    """C55."""
    assert refusal(with_header(headers)) == "is a tar with a file that has holes (a sparse one): expected plain files"


def test_a_header_that_cannot_be_read_is_damage_in_a_sentence_of_ours():
    """Python reads no number of 5000 digits."""
    assert refusal(with_header(b"9" * 5000 + b" a=b\n")) == "is a damaged tar (a header holds what cannot be read)"


def test_a_million_members_are_not_read():
    """C55."""
    header = tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT)
    begun = time.monotonic()
    assert "more than 10,000 files" in refusal(header * 1_000_000)
    assert time.monotonic() - begun < 10
