"""LoRAs from any source, as a file or a tar, are read, or refused with one sentence."""

import base64
import gzip
import hashlib
import io
import os
import tarfile
import time

import pytest
import torch
from safetensors.torch import save

from tests.services import a_network, redirect, send, send_json, service
from tests.tiny import assert_one_sentence, write
from weights import data_uri
from weights.cache.store import CacheLimits, Store
from weights.network.network import Tokens
from weights.references import open_lora, read_lora

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


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def refusal(reference, **options):
    with pytest.raises(ValueError) as error:
        read_lora(reference, named="lora_weights", **options)
    assert_one_sentence(error.value, "lora_weights")
    assert len(str(error.value)) < 400
    return str(error.value)


def refusal_of(tmp_path, content, name="lora.tar"):
    return refusal(str(write(tmp_path / name, content)))


def uri(content):
    return "data:application/octet-stream;base64," + base64.b64encode(content).decode()


def assert_read(reference, **options):
    lora = read_lora(reference, named="lora_weights", **options)
    assert lora.digest == DIGEST
    assert all(torch.equal(lora.tensors[name], tensor) for name, tensor in LORA.items())


def test_a_file_is_read(tmp_path):
    assert_read(str(write(tmp_path / "lora.safetensors", CONTENT)))


def test_spaces_around_a_path_are_ignored(tmp_path):
    assert_read(f" {write(tmp_path / 'lora.safetensors', CONTENT)}\n")


def test_the_tar_of_a_training_is_read_like_its_lora(tmp_path):
    tar = a_tar(member("output/flux_train_replicate/lora.safetensors", CONTENT), member("output/a.txt", b"a dog"))
    assert_read(str(write(tmp_path / "trained_model.tar", tar)))


def test_data_uris_are_read_like_files():
    assert_read(uri(CONTENT))
    assert_read(uri(a_tar(member("lora.safetensors", CONTENT))))


def test_the_format_is_recognised_by_the_content_and_not_by_the_suffix(tmp_path):
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
def test_a_tar_without_exactly_one_lora_is_refused(tmp_path, members, found):
    """Trap 49."""
    content = a_tar(*members) if members else a_tar(member("empty", b""))
    assert found in refusal_of(tmp_path, content)


def test_files_that_macos_adds_to_a_tar_are_ignored(tmp_path):
    tar = a_tar(member("._lora.safetensors", b"junk"), member("lora.safetensors", CONTENT))
    assert_read(str(write(tmp_path / "lora.tar", tar)))


def test_reading_a_tar_writes_nothing(tmp_path):
    assert_read(str(write(tmp_path / "lora.tar", a_tar(member("../../evil.safetensors", CONTENT)))))
    assert [path.name for path in tmp_path.iterdir()] == ["lora.tar"]


@pytest.mark.parametrize("length", [300, 600, 700])
def test_a_truncated_tar_is_refused(tmp_path, length):
    refusal_of(tmp_path, a_tar(member("lora.safetensors", CONTENT))[:length])


def test_the_names_of_a_tar_in_an_error_are_limited(tmp_path):
    names = [f"{index}\n{'x' * 300}.safetensors" for index in range(50)]
    message = refusal_of(tmp_path, a_tar(*(member(name, CONTENT) for name in names)))
    assert "50 .safetensors files" in message
    assert len(message) < 1000


def test_an_endless_chain_of_headers_is_reported_as_damaged(tmp_path):
    link = tarfile.TarInfo("x")
    link.type = tarfile.XHDTYPE
    assert "damaged tar" in refusal_of(tmp_path, link.tobuf(tarfile.USTAR_FORMAT) * 2000)


def test_a_sparse_member_does_not_fill_the_memory(tmp_path):
    """A few hundred bytes that represent a tebibyte of zeros."""
    info = tarfile.TarInfo("lora.safetensors")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"\x80" + (2**40).to_bytes(11, "big")  # the real size; none of it is stored
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    assert "a sparse file" in refusal_of(tmp_path, bytes(header) + bytes(1024))


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


def test_an_error_quotes_the_start_of_a_long_data_uri():
    message = refusal(uri(b"no lora" * 1000))
    assert "'data:" in message
    assert len(message) < 300


def test_an_error_quotes_the_end_of_a_long_path():
    message = refusal(f"/{'folder/' * 100}mine.safetensors")
    assert "/mine.safetensors'" in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "lora",
        "none/lora.safetensors",
        "/etc/passwd",
        "/tmp",
        "a\0b.safetensors",
        "a\nb.safetensors",
        "x" * 4000 + ".safetensors",
    ],
)
def test_a_missing_file_is_refused(reference):
    assert "expected the path of an existing .safetensors or .tar" in refusal(reference)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x80\x04.", bytes(700)])
def test_the_error_for_a_file_that_is_not_a_lora_names_it(tmp_path, content):
    assert "lora.safetensors" in refusal_of(tmp_path, content, "lora.safetensors")


A_TAR = a_tar(member("output/flux_train_replicate/lora.safetensors", CONTENT), member("output/a.txt", b"a dog"))


@pytest.fixture
def services():
    """One server for Replicate, Hugging Face and Civitai, with one LoRA each, and for signed and other URLs."""
    file = {"name": "x.safetensors", "metadata": {"format": "SafeTensor"}, "hashes": {"SHA256": DIGEST.upper()}}
    version = {"id": 7, "baseModel": "Flux.1 D", "files": [file]}
    responses = {
        "/api/models/o/r/revision/main?blobs=true": {
            "sha": "c1",
            "siblings": [{"rfilename": "sub/x.safetensors", "lfs": {"sha256": DIGEST}}],
        },
        "/api/v1/models/3": {"type": "LORA", "modelVersions": [version]},
        "/api/v1/model-versions/7": version,
    }
    files = {
        "/delivery/trained_model.tar": A_TAR,
        "/o/r/resolve/c1/sub/x.safetensors": CONTENT,
        "/api/download/models/7": CONTENT,
        "/x.safetensors?X-Amz-Signature=a%2Fb": CONTENT,
        "/files/id/data": A_TAR,
        "/page": b"<!doctype html>",
    }

    def reply(request, _):
        if request.path in responses:
            send_json(request, responses[request.path])
        elif request.path in files:
            send(request, files[request.path])
        elif request.path.startswith("/owner/name/"):
            redirect(request, "/delivery/trained_model.tar")
        else:
            send(request, status=404)

    with service(reply) as server:
        yield server


def services_network(server):
    return a_network(server, hugging_face=server.url, civitai=server.url, replicate=server.url)


@pytest.mark.parametrize(
    "reference",
    [
        "owner/name",
        "owner/name:abc",
        "https://replicate.com/owner/name/versions/abc",
        "o/r",
        "huggingface.co/o/r",
        "hf://o/r/sub/x.safetensors",
        "https://huggingface.co/o/r/blob/main/sub/x.safetensors",
        "https://huggingface.co/o/r/tree/main/sub",
        "https://civitai.com/models/3/slug",
        "https://civitai.com/models/3?modelVersionId=7",
        "civitai.com/api/download/models/7",
        "urn:air:flux1:lora:civitai:3@7",
    ],
)
def test_every_service_returns_the_same_lora(services, reference):
    assert_read(reference, network=services_network(services))


def test_a_lora_that_civitai_has_for_another_base_model_is_refused_though_it_is_in_the_cache(services):
    network = services_network(services)
    assert_read("civitai:3", network=network, base_model="FLUX.1")
    message = refusal("civitai:3", network=network, base_model="FLUX.2 [klein]")
    assert message == "lora_weights 'civitai:3' was made for Flux.1 D: expected a LoRA for FLUX.2 [klein]"


@pytest.mark.parametrize("path", ["x.safetensors?X-Amz-Signature=a%2Fb", "delivery/trained_model.tar", "files/id/data"])
def test_a_link_can_lead_to_a_file_or_a_tar_with_any_name(services, path):
    """C11, C13."""
    assert_read(f"{services.url}/{path}", network=services_network(services))


def test_a_download_that_is_not_a_lora_is_refused_and_downloaded_again_by_the_next_request(services):
    """C37: a web page without the content type of one."""
    for count in (1, 2):
        assert "found a web page" in refusal(f"{services.url}/page", network=services_network(services))
        assert len(services.requests) == count


@pytest.mark.parametrize(("reference", "content"), [("hf:o/r", CONTENT), ("owner/name", A_TAR)])
def test_a_download_that_was_damaged_in_the_cache_is_downloaded_again(services, tmp_path, reference, content):
    """One flipped bit of a weight, which the safetensors format does not detect."""
    options = {"network": services_network(services), "store": Store(tmp_path, CacheLimits(spare_bytes=0))}
    assert_read(reference, **options)
    (file,) = tmp_path.glob("*.bin")
    position = content.rindex(CONTENT[-4:]) + 2
    write(file, content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
    assert_read(reference, **options)
    assert file.read_bytes() == content


def test_a_damaged_download_is_refused_if_its_source_has_another_version_now(tmp_path):
    """The cache key is still that of the old version."""
    versions = [A_TAR]
    with service(lambda request, _: send(request, versions[-1])) as server:
        options = {"network": a_network(server), "store": Store(tmp_path, CacheLimits(spare_bytes=0))}
        with open_lora(f"{server.url}/x", named="lora_weights", **options) as file:
            versions.append(A_TAR.replace(b"a dog", b"a cat"))
            write(next(tmp_path.glob("*.bin")), versions[-1])
            with pytest.raises(ValueError, match="another version now"):
                file.read()
        assert_read(f"{server.url}/x", **options)


def test_the_given_tokens_and_store_are_used(services, tmp_path):
    assert_read(
        "hf:o/r",
        network=services_network(services),
        tokens=Tokens(hugging_face="s3cret"),
        store=Store(tmp_path, CacheLimits(spare_bytes=0)),
    )
    assert {request.headers["authorization"] for request in services.requests} == {"Bearer s3cret"}
    assert any(path.suffix == ".bin" for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    "reference",
    [
        "https://127.0.0.1/x?X-Amz-Signature=s3cret",
        "https://user:s3cret@h.example/x",
        "civitai.com/models/x?token=s3cret",
        "https://127.0.0.1/x#s3cret",
        "HTTP://127.0.0.1/x?a=s3cret",
        "https:///x?sig=s3cret",
        "https://h.example/x?sig=s3cret&y=" + "y" * 9000,
        "https://user:s3cret@h.example/" + "y" * 9000,
        "https://user:pa/s3cret@h.example/x",
        "https://user:s3cret/ss@h.example/x",
        "https://user:s3cret?ss@h.example/x",
        "https://user:s3cret#s@s@h.example/x",
    ],
)
def test_an_error_contains_no_secret(reference):
    assert "s3cret" not in refusal(reference)


def test_requests_to_this_machine_are_refused_by_default(services):
    assert "expected https" in refusal(f"{services.url}/x.safetensors")
    assert "not allowed" in refusal(f"{services.url}/x.safetensors".replace("http", "https"))
    assert "not allowed" in refusal("https://127.0.0.1/x.safetensors")
    assert services.requests == []


def test_an_error_names_the_repository_before_a_revision():
    assert "'hf://o/r@main/x.bin/../y'" in refusal("hf://o/r@main/x.bin/../y")


@pytest.mark.parametrize("reference", ["", " ", "None"])
def test_the_error_for_an_empty_reference_lists_all_forms(reference):
    """C16: a caller that needs no LoRA does not call `read_lora`."""
    assert "owner/name" in refusal(reference)


def test_the_error_for_a_full_disk_names_the_reference(services, tmp_path):
    """C41."""
    store = Store(tmp_path, CacheLimits(spare_bytes=2**60))
    with pytest.raises(OSError, match="lora_weights 'hf:o/r' cannot be read or cached: does not fit on the disk"):
        read_lora("hf:o/r", named="lora_weights", network=services_network(services), store=store)


def test_the_error_for_an_unwritable_cache_does_not_contain_its_path(services, tmp_path):
    write(tmp_path / "file", b"")
    store = Store(tmp_path / "file" / "cache", CacheLimits())
    with pytest.raises(OSError, match="cannot be read or cached: Not a directory") as error:
        read_lora("hf:o/r", named="lora_weights", network=services_network(services), store=store)
    assert str(tmp_path) not in str(error.value)


def test_a_data_uri_over_the_limit_is_refused(monkeypatch):
    """C14."""
    monkeypatch.setattr(data_uri, "MAX_INLINE", 100)
    assert "expected at most 100" in refusal(uri(CONTENT))


def test_a_gzipped_tar_is_read_from_a_data_uri_and_from_a_file(tmp_path):
    """C14."""
    content = gzip.compress(A_TAR)
    assert_read(uri(content))
    assert_read(str(write(tmp_path / "lora.tgz", content)))


@pytest.mark.parametrize(("wrong", "found"), [(ValueError("is of SDXL"), "is of SDXL"), (OSError("gone"), "gone")])
def test_an_error_in_the_block_is_completed_with_the_input_and_the_reference(tmp_path, wrong, found):
    path = write(tmp_path / "lora.safetensors", CONTENT)
    with pytest.raises(type(wrong), match=found) as error, open_lora(str(path), named="loras[1]") as file:
        file.read()
        raise wrong
    assert_one_sentence(error.value, "loras[1] '", "lora.safetensors' ")
    assert str(error.value).startswith(file.named)


def cache_key_of(reference, **options):
    with open_lora(str(reference), named="lora_weights", **options) as file:
        return file.cache_key


def test_the_cache_key_of_a_file_is_known_before_it_is_read_and_changes_with_the_file(tmp_path):
    path = write(tmp_path / "a.safetensors", b"no LoRA at all")
    first = cache_key_of(path)
    assert cache_key_of(path) == first
    path.unlink()
    write(tmp_path / "a.safetensors", b"no other LoRA ")
    assert cache_key_of(path) != first


def test_the_cache_key_changes_if_a_file_is_overwritten_with_the_same_size_and_mtime(tmp_path):
    """`tar xf` of our tars and `cp -p` keep the mtime."""
    path = write(tmp_path / "a.safetensors", b"no LoRA at all")
    os.utime(path, (0, 0))
    first = cache_key_of(path)
    time.sleep(0.02)  # the clock of a file system is coarser
    path.write_bytes(b"no other LoRA ")
    os.utime(path, (0, 0))
    assert cache_key_of(path) != first


def test_the_cache_key_of_a_data_uri_depends_on_its_content_only():
    uri = "data:application/x-tar;base64,bm8gTG9SQQ=="
    assert (
        cache_key_of(uri)
        == cache_key_of(uri.replace("x-tar", "octet-stream"))
        != cache_key_of(uri.replace("bm8", "cm8"))
    )
