"""A base is downloaded once: only what is missing, verified, resumed after an interruption, by one process only."""

import hashlib
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.base_services import (
    COMMIT,
    LARGE,
    OTHERS,
    REPOSITORY,
    Files,
    Hub,
    destination,
    downloads,
    expected_paths,
    files_of,
    manifest_of,
    small_base,
    tar_of,
)
from tests.services import send, send_head, service
from tests.tiny import assert_one_sentence
from weights import base_folder
from weights.base_fetching import cache_folder, ensure_base, fetch_base
from weights.base_files import check_folder
from weights.grammar.base_source import HubBase, TarBase
from weights.printed import size_text

HUB = HubBase(REPOSITORY, "main")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a small base."""
    return files_of(small_base(tmp_path_factory.mktemp("small") / "base"))


def refusal(source, where, kind=ValueError):
    with pytest.raises(kind) as error:
        fetch_base(source, where)
    assert_one_sentence(error.value, str(source))
    return str(error.value)


def fetched(files, tmp_path, *, cuts=None, source=HUB, lines=None, **hub):
    """Download from a Hub into tmp_path/base; return the server."""
    with service(Hub(Files({**files, **OTHERS}, cuts or {}), **hub)) as server:
        fetch_base(source, destination(server, tmp_path / "base", lines=lines))
    return server


def test_a_base_on_the_hub_is_downloaded_without_what_is_no_part_of_it(files, tmp_path):
    lines = []
    server = fetched(files, tmp_path, lines=lines)
    assert files_of(tmp_path / "base") == files
    assert set(downloads(server)) == expected_paths({**files, **OTHERS})
    assert server.paths()[0] == f"/api/models/{REPOSITORY}/revision/main?blobs=true"


def test_the_log_says_size_licence_and_gate_first(files, tmp_path):
    where_lines = ["start"]
    with service(Hub(Files(files), token="mine")) as server:
        fetch_base(HUB, destination(server, tmp_path / "base", token="mine", lines=where_lines))
    first = where_lines[1]
    assert first.startswith(
        f"{REPOSITORY} at commit {COMMIT[:12]}: 864.2 kB in {len(files)} files, licence small-licence"
    )
    assert first.endswith(f"gated: it must be accepted at huggingface.co/{REPOSITORY}")
    assert "is complete" in where_lines[-1]


def test_the_manifest_has_the_sha256_and_the_commit(files, tmp_path):
    fetched(files, tmp_path)
    manifest = manifest_of(tmp_path / "base")
    assert manifest["source"] == f"hf://{REPOSITORY}@{COMMIT}"
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    assert {entry["path"]: entry["sha256"] for entry in manifest["files"]} == digests


def test_a_second_start_asks_no_server(files, tmp_path):
    fetched(files, tmp_path)
    with service(Hub(Files(files))) as server:
        ensure_base(HUB, destination(server, tmp_path / "base"))
    assert server.paths() == []


def test_a_missing_file_is_downloaded_alone(files, tmp_path):
    fetched(files, tmp_path)
    (tmp_path / "base" / LARGE).unlink()
    with service(Hub(Files(files))) as server:
        ensure_base(HUB, destination(server, tmp_path / "base"))
    large_ones = [path for path in downloads(server) if path.endswith(".safetensors")]
    assert large_ones == [LARGE]
    assert files_of(tmp_path / "base") == files


def test_a_damaged_file_of_the_right_size_is_downloaded_again(files, tmp_path):
    """As `script/download` finds it, whatever downloaded it."""
    for path, content in files.items():
        (tmp_path / "base" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "base" / path).write_bytes(content if path != LARGE else content[:-1] + b"?")
    server = fetched(files, tmp_path)
    assert [path for path in downloads(server) if path.endswith(".safetensors")] == [LARGE]
    assert files_of(tmp_path / "base") == files


def test_a_file_that_is_cut_off_is_resumed(files, tmp_path):
    server = fetched(files, tmp_path, cuts={LARGE: 100_000})
    ranges = [each.headers.get("range") for each in server.requests if each.path.endswith(LARGE)]
    assert ranges == [None, "bytes=100000-"]
    assert files_of(tmp_path / "base") == files


def test_a_download_that_was_interrupted_is_resumed_by_the_next(files, tmp_path):
    """The server is gone after a part of the file; what other files have is kept, too."""

    class Gone(Hub):
        def __call__(self, request, server):
            if request.path.endswith(LARGE) and "Range" in request.headers:
                send(request, status=500)
            else:
                super().__call__(request, server)

    with service(Gone(Files(files, {LARGE: 100_000}))) as server:
        assert "returned 500" in refusal(HUB, destination(server, tmp_path / "base"))
    server = fetched(files, tmp_path)
    ranges = [each.headers.get("range") for each in server.requests if each.path.endswith(LARGE)]
    assert ranges == ["bytes=100000-"]
    assert files_of(tmp_path / "base") == files


def test_a_part_of_another_version_is_not_continued(files, tmp_path):
    (tmp_path / "base/transformer").mkdir(parents=True)
    part = tmp_path / "base" / f"{LARGE}.incomplete"
    part.write_bytes(b"of another version")
    (tmp_path / "base" / f"{LARGE}.incomplete.version").write_text('"another"')
    fetched(files, tmp_path)
    assert files_of(tmp_path / "base") == files


def test_a_part_that_is_damaged_is_noticed_and_replaced(files, tmp_path):
    """Right size, right version, other bytes: a disk or a machine failed."""
    (tmp_path / "base/transformer").mkdir(parents=True)
    (tmp_path / "base" / f"{LARGE}.incomplete").write_bytes(b"\0" * 1000)
    etag = f'"{hashlib.sha256(files[LARGE]).hexdigest()[:16]}"'
    (tmp_path / "base" / f"{LARGE}.incomplete.version").write_text(etag)
    server = fetched(files, tmp_path)
    assert [each.headers.get("range") for each in server.requests if each.path.endswith(LARGE)] == ["bytes=1000-", None]
    assert files_of(tmp_path / "base") == files


def test_a_wrong_sha256_is_refused_and_nothing_of_the_file_is_kept(files, tmp_path):
    with service(Hub(Files(files), sha256={LARGE: "ab" * 32})) as server:
        message = refusal(HUB, destination(server, tmp_path / "base"))
    assert LARGE in message
    assert "its source says abababababab..." in message
    assert not list((tmp_path / "base/transformer").glob("*.safetensors*"))
    assert not (tmp_path / "base/manifest.json").exists()


@pytest.mark.parametrize(("token", "status"), [("", 401), ("theirs", 403)])
def test_a_gated_repository_is_refused_before_gigabytes_with_what_to_do(files, tmp_path, token, status):
    with service(Hub(Files(files), token="mine")) as server:
        message = refusal(HUB, destination(server, tmp_path / "base", token=token))
    assert f"returned {status}" in message
    assert f"accept the licence at huggingface.co/{REPOSITORY} with your account, and give a token of it" in message
    assert "HF_TOKEN" in message
    assert not [path for path in downloads(server) if path.endswith(".safetensors")]
    assert "theirs" not in message


def test_too_little_disk_is_refused_before_anything_is_downloaded(files, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(base_folder, "SPARE_BYTES", free + 10**9)
    with service(Hub(Files(files))) as server:
        message = refusal(HUB, destination(server, tmp_path / "base"), OSError)
    assert "does not fit on the disk" in message
    assert re.search(r"[\d.]+ GB are free, expected [\d.]+ [kM]B and [\d.]+ GB to spare; make room", message)
    assert downloads(server) == []


def test_another_model_is_refused_before_its_weights_are_downloaded(files, tmp_path):
    index = files["model_index.json"].replace(b"FluxPipeline", b"FluxFillPipeline")
    with service(Hub(Files({**files, "model_index.json": index}))) as server:
        assert "FLUX.1 Fill" in refusal(HUB, destination(server, tmp_path / "base"))
    assert not [path for path in downloads(server) if path.endswith(".safetensors")]


def test_a_repository_without_a_base_and_one_that_does_not_exist_are_refused(tmp_path):
    with service(Hub(Files(OTHERS))) as server:
        message = refusal(HUB, destination(server, tmp_path / "base"))
        assert "has no model_index.json (its first files: 'README.md'" in message
        missing = refusal(HubBase("o/none", "v2"), destination(server, tmp_path / "none"))
    assert "Hugging Face has no o/none with the revision v2, or it is private and needs HF_TOKEN" in missing


def test_two_starts_at_once_download_once(files, tmp_path):
    lines = ["start"]
    with service(Hub(Files(files))) as server, ThreadPoolExecutor(2) as pool:
        with base_folder.locked(tmp_path / "base", lines.append):
            first = pool.submit(ensure_base, HUB, destination(server, tmp_path / "base", lines=lines))
            second = pool.submit(ensure_base, HUB, destination(server, tmp_path / "base", lines=lines))
            while sum("waiting for another process" in line for line in lines) < 2:
                time.sleep(0.01)
            assert server.paths() == []
        first.result()
        second.result()
    assert sorted(downloads(server)) == sorted(files)


class Cancelled(BaseException):
    """What Cog raises in a job that is cancelled."""


def test_a_cancelled_download_ends_at_once_although_the_server_is_silent_and_writes_no_more(files, tmp_path):
    """A thread that waits for the server is left behind; it must not touch the file when the bytes come."""
    silent, released = threading.Event(), threading.Event()

    class Silent(Hub):
        def __call__(self, request, server):
            if not request.path.endswith(LARGE):
                super().__call__(request, server)
                return
            send_head(request, 200, ETag='"1"', Content_Length=str(len(files[LARGE])))
            request.wfile.write(files[LARGE][:1000])
            silent.set()
            released.wait(5)
            request.wfile.write(files[LARGE][1000:])

    def cancel_in_time(_line):
        if silent.is_set():
            raise Cancelled

    with service(Silent(Files(files))) as server, pytest.raises(Cancelled):
        where = destination(server, tmp_path / "base")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("weights.parallel.SECONDS_BETWEEN_LINES", 0.0)
            fetch_base(HUB, base_folder.Destination(where.folder, where.network, "", cancel_in_time))
    began = time.monotonic()
    part = tmp_path / "base" / f"{LARGE}.incomplete"
    assert part.stat().st_size == 1000
    released.set()
    time.sleep(0.3)
    assert part.stat().st_size == 1000
    assert time.monotonic() - began < 1
    fetched(files, tmp_path)
    assert files_of(tmp_path / "base") == files


# --- a tar at a URL


def serve_tar(content, *, cuts=None):
    """A server of a tar that can resume."""
    sent = Files({"/base.tar": content}, cuts or {})
    return service(lambda request, _: sent.send(request, request.path.partition("?")[0]))


def tar_source(server, *, sha256="", name="base.tar"):
    return TarBase(f"{server.url}/{name}", sha256)


@pytest.mark.parametrize("root", ["", "./", "small/", "./deep/small/"])
@pytest.mark.parametrize("kind", ["w", "w:gz"])
def test_a_base_in_a_tar_is_written_wherever_it_lies_in_it(files, tmp_path, root, kind):
    with serve_tar(tar_of(files | OTHERS, root=root, kind=kind)) as server:
        fetch_base(tar_source(server), destination(server, tmp_path / "base"))
    assert files_of(tmp_path / "base") == files
    check_folder(tmp_path / "base")


def test_a_licence_beside_the_base_is_not_taken_for_its_folder(files, tmp_path):
    members = {"LICENSE": b"of the archive", "model_index.json.bak": b""}
    members |= {f"deep/small/{name}": content for name, content in files.items()}
    with serve_tar(tar_of(members, root="")) as server:
        fetch_base(tar_source(server), destination(server, tmp_path / "base"))
    manifest = manifest_of(tmp_path / "base")
    assert {entry["path"] for entry in manifest["files"]} == files.keys()


def test_names_in_a_tar_lead_nowhere_else(files, tmp_path):
    evil = {
        "../../evil.json": b"{}",
        "small/vae/../../../evil": b"x",
        "/etc/evil.json": b"{}",
        "small/../vae/evil.json": b"",
    }
    with serve_tar(tar_of({f"small/{name}": content for name, content in files.items()} | evil, root="")) as server:
        fetch_base(tar_source(server), destination(server, tmp_path / "base"))
    assert files_of(tmp_path / "base") == files
    assert {path.name for path in tmp_path.iterdir()} == {"base"}


def test_a_tar_that_is_cut_off_is_resumed(files, tmp_path):
    content = tar_of(files)
    with serve_tar(content, cuts={"/base.tar": 300_000}) as server:
        fetch_base(tar_source(server), destination(server, tmp_path / "base"))
    assert [each.headers.get("range") for each in server.requests] == [None, "bytes=300000-"]
    assert files_of(tmp_path / "base") == files


def test_a_tar_that_was_interrupted_is_continued_with_the_member_that_was_cut_off(files, tmp_path):
    content = tar_of(files)
    sent = Files({"/base.tar": content}, {"/base.tar": 500_000})
    answers = iter([sent.send, *[lambda request, _: send(request, status=503)] * 9])
    with service(lambda request, _: next(answers)(request, "/base.tar")) as server:
        refusal(tar_source(server), destination(server, tmp_path / "base"))
        finished = set(files_of(tmp_path / "base"))
        answers = iter([sent.send])
        del server.requests[:]
        fetch_base(tar_source(server), destination(server, tmp_path / "base"))
    (request,) = server.requests
    assert 0 < int(request.headers["range"].removeprefix("bytes=").rstrip("-")) < 500_000
    assert len(finished) > 5
    assert files_of(tmp_path / "base") == files
    assert not list((tmp_path / "base").glob("*.incomplete*"))


def test_a_tar_that_changes_during_its_download_is_begun_anew(files, tmp_path):
    other = {**files, "model_index.json": files["model_index.json"] + b" ", LARGE: files[LARGE][:-4] + b"more"}
    assert len(tar_of(other)) == len(tar_of(files))
    sent = [Files({"/base.tar": tar_of(files)}, {"/base.tar": 300_000}), *[Files({"/base.tar": tar_of(other)})] * 3]
    with service(lambda request, _: sent.pop(0).send(request, "/base.tar")) as server:
        fetch_base(tar_source(server), destination(server, tmp_path / "base"))
    assert files_of(tmp_path / "base") == other


def test_a_tar_with_another_sha256_than_its_reference_says_is_refused_also_the_second_time(files, tmp_path):
    content = tar_of(files)
    with serve_tar(content) as server:
        for _ in range(2):
            message = refusal(tar_source(server, sha256="ab" * 32), destination(server, tmp_path / "base"))
            assert "but its reference says abababababab..." in message
        fetch_base(
            tar_source(server, sha256=hashlib.sha256(content).hexdigest()), destination(server, tmp_path / "base")
        )
    assert files_of(tmp_path / "base") == files


def test_a_tar_of_a_downloaded_base_is_compared_with_its_manifest(files, tmp_path):
    fetched(files, tmp_path)
    manifest = (tmp_path / "base/manifest.json").read_bytes()
    damaged = {**files, LARGE: files[LARGE][:-1] + b"?"}
    with serve_tar(tar_of({"manifest.json": manifest, **damaged})) as server:
        message = refusal(tar_source(server), destination(server, tmp_path / "other"))
    assert f"{LARGE!r} is not what its manifest.json says" in message
    assert not (tmp_path / "other/manifest.json").exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (lambda files: tar_of(files)[:100_000], "is a damaged tar"),
        (lambda files: b"no tar" * 1000, "is a damaged tar"),
        (lambda files: tar_of(OTHERS), "is a tar without model_index.json"),
        (lambda files: tar_of({n: c for n, c in files.items() if n != LARGE}), f"{LARGE} is missing"),
        (lambda files: tar_of({**files, LARGE: b"<html>"}), "is not a safetensors file"),
    ],
)
def test_a_tar_that_holds_no_base_is_refused(files, tmp_path, content, found):
    with serve_tar(content(files)) as server:
        assert found in refusal(tar_source(server), destination(server, tmp_path / "base"))
    assert not (tmp_path / "base/manifest.json").exists()


def test_a_tar_with_too_little_disk_is_refused_before_it_is_written(files, tmp_path, monkeypatch):
    monkeypatch.setattr(base_folder, "SPARE_BYTES", shutil.disk_usage(tmp_path).free + 10**9)
    content = tar_of(files)
    with serve_tar(content) as server:
        message = refusal(tar_source(server), destination(server, tmp_path / "base"), OSError)
    assert f"expected {size_text(len(content))} and " in message
    assert files_of(tmp_path / "base") == {}


def test_a_missing_tar_and_a_web_page_are_refused(tmp_path):
    with service(lambda request, _: send(request, status=404)) as server:
        assert "was not found" in refusal(tar_source(server), destination(server, tmp_path / "base"))
    with service(lambda request, _: send(request, b"<html>", Content_Type="text/html")) as server:
        assert "is a web page" in refusal(tar_source(server), destination(server, tmp_path / "base"))


def test_a_signature_is_neither_shown_nor_part_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {cache_folder(TarBase(f"https://h.test/a.tar?X-Amz-Signature={each}", "")) for each in ("1", "2")}
    assert len(folders) == 1
    assert folders.pop().parent == tmp_path / "flux-lora-bases"
    assert cache_folder(HubBase("o/r", "a")) != cache_folder(HubBase("o/r", "b"))
    with service(lambda request, _: send(request, status=403)) as server:
        assert "s3cret" not in refusal(tar_source(server, name="a.tar?sig=s3cret"), destination(server, tmp_path / "b"))
