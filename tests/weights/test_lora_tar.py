"""The only LoRA in an untrusted tar, gzipped or not, is read without writing anything; C46 to C55."""

import gzip
import io
import tarfile
import time

import pytest

from weights import lora_tar, tar_stream
from weights.lora_tar import START_BYTES, is_tar, lora_in_tar

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
    return lora_in_tar(io.BytesIO(content)).content


def refusal(content):
    with pytest.raises(ValueError) as error:
        read(content)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("names", [("a/x.safetensors", "b.txt"), ("b.txt", "a/x.safetensors")])
def test_the_lora_is_found_gzipped_or_not_before_or_after_others(mode, names):
    content = a_tar(*((name, CONTENT if name.endswith("safetensors") else b"text") for name in names), mode=mode)
    assert is_tar(content[:START_BYTES])
    assert read(content) == CONTENT


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_is_read(tar_format):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        info = tarfile.TarInfo("dir/" * 20 + "x.safetensors")
        info.size = len(CONTENT)
        tar.addfile(info, io.BytesIO(CONTENT))
    assert is_tar(file.getvalue()[:START_BYTES])
    assert read(file.getvalue()) == CONTENT


def test_no_lora_and_two_loras_are_refused():
    """C46, C47."""
    assert "0 .safetensors files (none)" in refusal(a_tar(("a.txt", b"x")))
    assert "2 .safetensors files ('a.safetensors', 'b.safetensors')" in refusal(
        a_tar(("a.safetensors", CONTENT), ("b.safetensors", CONTENT))
    )


def test_the_final_lora_is_chosen_beside_checkpoints_wherever_it_is():
    files = [(f"checkpoint-{step}/lora.safetensors", b"step") for step in (100, 200)]
    files.insert(1, ("lora.safetensors", CONTENT))
    found = lora_in_tar(io.BytesIO(a_tar(*files)))
    assert found.content == CONTENT
    assert found.note == "has 3 .safetensors files: 'lora.safetensors' is used"


def test_two_files_of_one_name_are_refused():
    assert "2 .safetensors files" in refusal(a_tar(("lora.safetensors", b"a"), ("lora.safetensors", b"b")))


def test_the_error_for_pickles_says_that_they_are_not_read():
    assert "(none); pickles, such as 'a.ckpt', are not read" in refusal(a_tar(("a.ckpt", b"x")))


@pytest.mark.parametrize("before", [False, True])
def test_the_settings_of_peft_are_read_from_the_same_folder(before):
    files = [("a/x.safetensors", CONTENT), ("a/adapter_config.json", b"{}"), ("adapter_config.json", b"[]")]
    assert lora_in_tar(io.BytesIO(a_tar(*(files[::-1] if before else files)))).config == "{}"


def test_settings_that_are_too_large_are_not_read(monkeypatch):
    monkeypatch.setattr(lora_tar, "LONGEST_CONFIG", 1)
    files = ("x.safetensors", CONTENT), ("adapter_config.json", b"{}")
    assert lora_in_tar(io.BytesIO(a_tar(*files))).config == ""


@pytest.mark.parametrize("name", ["../../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors"])
def test_a_path_with_parent_folders_writes_nothing(name, tmp_path, monkeypatch):
    """C49."""
    monkeypatch.chdir(tmp_path)
    assert read(a_tar((name, CONTENT))) == CONTENT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_ignored(kind):
    """C50."""
    content = a_tar(("x.safetensors", b""), type=kind, linkname="/etc/passwd")
    assert "0 .safetensors files" in refusal(content)


@pytest.mark.parametrize("name", ["x.safetensors", "zeros.txt"])
def test_a_gzipped_bomb_is_stopped_at_the_limit(monkeypatch, name):
    """C52."""
    monkeypatch.setattr(lora_tar, "MAX_BYTES", 1_000_000)
    bomb = a_tar((name, bytes(30_000_000)), mode="w:gz")
    assert len(bomb) < 100_000
    assert "1,000,000" in refusal(bomb)


def test_a_gzipped_bomb_is_stopped_by_its_compression_ratio(monkeypatch):
    """C52: a few megabytes must not unpack to four gibibytes of memory."""
    monkeypatch.setattr(lora_tar, "UNCHECKED_BYTES", 1_000_000)
    bomb = a_tar(("x.safetensors", bytes(30_000_000)), mode="w:gz")
    assert "unpacks to more than 200 times its size" in refusal(bomb)


def test_an_uncompressed_tar_of_zeros_is_read(monkeypatch):
    monkeypatch.setattr(lora_tar, "UNCHECKED_BYTES", 1000)
    assert read(a_tar(("x.safetensors", bytes(100_000)))) == bytes(100_000)


def test_members_that_are_too_large_together_are_stopped(monkeypatch):
    monkeypatch.setattr(lora_tar, "MAX_BYTES", 1_000_000)
    bomb = a_tar(*((f"{index}.txt", bytes(900_000)) for index in range(9)), mode="w:gz")
    assert "unpacks to more than 1,000,000 bytes" in refusal(bomb)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
def test_a_truncated_tar_is_reported_as_damaged(mode, fraction):
    """C53."""
    content = a_tar(("x.safetensors", bytes(range(256)) * 40), mode=mode)
    message = refusal(content[: int((len(content) if mode == "w:gz" else 10_752) * fraction)])
    assert "damaged tar" in message
    assert len(message) < 200


@pytest.mark.parametrize(
    "content",
    [b"", gzip.compress(b"", mtime=0), gzip.compress(b"no tar", mtime=0), b"\x1f\x8b", bytes(100)],
    ids=["nothing", "nothing, gzipped", "a text, gzipped", "the start of a gzip", "zeros"],
)
def test_a_file_that_is_not_a_tar_is_reported_as_damaged(content):
    """C53."""
    assert "damaged tar" in refusal(content) or "0 .safetensors" in refusal(content)


def test_a_false_size_in_a_pax_header_is_refused():
    """C55."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x.safetensors")
        info.pax_headers = {"size": str(2**50)}
        tar.addfile(info)
    assert "a file of 1,125,899,906,842,624 bytes" in refusal(file.getvalue())


def with_header(headers, kind=tarfile.XHDTYPE):
    """A tar with a header before its only LoRA: a PAX header of these records, or another header of these bytes."""
    records = headers if isinstance(headers, bytes) else b"".join(record(*item) for item in headers.items())
    info = tarfile.TarInfo("headers")
    info.type, info.size = kind, len(records)
    padded = records + bytes(-len(records) % tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.USTAR_FORMAT) + padded + a_tar(("x.safetensors", CONTENT))


def record(name, value):
    text = f" {name}={value}\n".encode()
    length = len(text) + 1
    while length != len(f"{length}".encode() + text):
        length += 1
    return f"{length}".encode() + text


def test_headers_of_usual_size_are_read():
    assert read(with_header({"comment": "x" * 1000})) == CONTENT


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_over_the_limit_are_not_read(kind):
    """C55: 200 MiB of headers, in a data URI of 3 MB, took seconds and three times as much memory."""
    header = tarfile.TarInfo("headers")
    header.type, header.size = kind, 200 * 2**20
    assert "over 1,048,576 bytes of headers" in refusal(header.tobuf(tarfile.USTAR_FORMAT))


def test_the_limit_applies_to_all_headers_together(monkeypatch):
    monkeypatch.setattr(tar_stream, "MAX_HEADER_BYTES", 3000)
    tar = with_header({"comment": "x" * 1000})
    assert "over 3,000 bytes of headers" in refusal(tar[: -tarfile.RECORDSIZE] * 4)


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "0,8", "GNU.sparse.size": "8"},
        {"GNU.sparse.map": "a,b", "GNU.sparse.size": "8"},
        {"GNU.sparse.size": "zz", "GNU.sparse.offset": "0"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "8"},
    ],
)
def test_a_sparse_file_is_refused_with_our_own_message(headers):
    """C55."""
    assert refusal(with_header(headers)) == "is a tar with a sparse file: expected plain files"


def test_a_header_that_cannot_be_read_is_refused_with_our_own_message():
    """Python refuses to parse a number of 5000 digits."""
    assert refusal(with_header(b"9" * 5000 + b" a=b\n")) == "is a damaged tar (a header cannot be read)"


def test_a_million_members_are_not_read():
    """C55."""
    header = tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT)
    started = time.monotonic()
    assert "more than 10,000 files" in refusal(header * 1_000_000)
    assert time.monotonic() - started < 10
