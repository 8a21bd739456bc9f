"""A remote LoRA is downloaded once, and served for credentials that its source accepts; C40 to C44."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from script.cog_server import ROOT
from tests.services import a_network, redirect, send, send_from, send_json, service
from weights.cache.store import CacheLimits, Store
from weights.fetching import Fetcher
from weights.grammar.grammar import parse_reference
from weights.grammar.records import CivitaiLora, HubLora, Link, ReplicateLora, UnqualifiedLora
from weights.network.network import Tokens

CONTENT = b"the content of a LoRA"
HUB = HubLora("o/r")


def a_fetcher(tmp_path, server, *, fresh_seconds=600.0, **tokens):
    network = a_network(server, hugging_face=server.url, civitai=server.url, replicate=server.url)
    return Fetcher(
        network, Tokens(**tokens), Store(tmp_path / "cache", CacheLimits(spare_bytes=0, fresh_seconds=fresh_seconds))
    )


def fetch(fetcher, record):
    with fetcher.fetch(record).file as file:
        return file.read()


def refusal(fetcher, record):
    with pytest.raises(ValueError) as error:
        fetch(fetcher, record)
    assert "\n" not in str(error.value)
    return str(error.value)


class Hub:
    """The API of Hugging Face with one repository, which is private if `tokens` are given."""

    def __init__(self, *, tokens=(), content=CONTENT, commit="c1"):
        self.tokens, self.content, self.commit = {f"Bearer {token}" for token in tokens}, content, commit
        self.downloads = 0

    def __call__(self, request, _):
        if self.tokens and request.headers.get("Authorization") not in self.tokens:
            send(request, status=401)
        elif request.path.startswith("/api/models/o/r/"):
            send_json(request, {"sha": self.commit, "siblings": [{"rfilename": "x.safetensors"}]})
        elif request.path == f"/o/r/resolve/{self.commit}/x.safetensors":
            self.downloads += request.headers.get("If-None-Match") != f'"{self.commit}"'
            send_from(request, self.content, etag=f'"{self.commit}"')
        else:
            send(request, status=404)


def test_a_file_is_downloaded_once_and_not_requested_while_it_is_fresh(tmp_path):
    with service(Hub()) as server:
        fetcher = a_fetcher(tmp_path, server)
        assert fetch(fetcher, HUB) == CONTENT
        assert fetch(fetcher, HUB) == CONTENT
        assert fetch(a_fetcher(tmp_path, server), HUB) == CONTENT
    assert len(server.requests) == 2


def test_an_unchanged_file_is_requested_but_not_downloaded_again(tmp_path):
    """C43."""
    hub = Hub()
    with service(hub) as server:
        fetcher = a_fetcher(tmp_path, server, fresh_seconds=0)
        assert fetch(fetcher, HUB) == CONTENT
        assert fetch(fetcher, HUB) == CONTENT
    assert hub.downloads == 1
    assert len(server.requests) == 4


def test_a_changed_file_is_downloaded_again(tmp_path):
    """C43."""
    hub = Hub()
    with service(hub) as server:
        fetcher = a_fetcher(tmp_path, server, fresh_seconds=0)
        fetch(fetcher, HUB)
        hub.content, hub.commit = b"newer", "c2"
        assert fetch(fetcher, HUB) == b"newer"
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1


def test_a_private_file_in_the_cache_is_served_only_for_tokens_that_its_source_accepts(tmp_path):
    """C2 of the peers' bugs: a file downloaded with the token of one user was served to everybody."""
    hub = Hub(tokens=["mine", "ours"])
    with service(hub) as server:
        assert fetch(a_fetcher(tmp_path, server, hugging_face="mine"), HUB) == CONTENT
        assert "needs a token" in refusal(a_fetcher(tmp_path, server), HUB)
        assert "not accessible with this token" in refusal(a_fetcher(tmp_path, server, hugging_face="theirs"), HUB)
        assert fetch(a_fetcher(tmp_path, server, hugging_face="mine"), HUB) == CONTENT


def test_a_second_accepted_token_shares_the_file(tmp_path):
    """C44."""
    hub = Hub(tokens=["mine", "ours"])
    with service(hub) as server:
        fetch(a_fetcher(tmp_path, server, hugging_face="mine"), HUB)
        assert fetch(a_fetcher(tmp_path, server, hugging_face="ours"), HUB) == CONTENT
        before = len(server.requests)
        fetch(a_fetcher(tmp_path, server, hugging_face="ours"), HUB)
        assert len(server.requests) == before
    assert hub.downloads == 1
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1


def test_two_signatures_share_one_file_and_a_wrong_one_is_refused(tmp_path):
    """C11, C44."""

    def reply(request, _):
        if "X-Amz-Signature=good" in request.path:
            send_from(request, CONTENT, etag='"1"')
        else:
            send(request, status=403)

    with service(reply) as server:
        fetcher = a_fetcher(tmp_path, server)
        assert fetch(fetcher, Link(f"{server.url}/x.tar?X-Amz-Signature=good1&id=2")) == CONTENT
        assert fetch(fetcher, Link(f"{server.url}/x.tar?X-Amz-Signature=good2&id=2")) == CONTENT
        assert "expired" in refusal(fetcher, Link(f"{server.url}/x.tar?X-Amz-Signature=bad&id=2"))
    assert server.paths()[0] == "/x.tar?X-Amz-Signature=good1&id=2"
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1


def test_the_cache_contains_no_secret(tmp_path):
    with service(Hub(tokens=["s3cret"])) as server:
        fetch(a_fetcher(tmp_path, server, hugging_face="s3cret"), HUB)
    with service(lambda request, _: send(request, CONTENT)) as server:
        fetch(a_fetcher(tmp_path, server), Link(f"{server.url}/x.tar?Signature=s3cret"))
    files = list((tmp_path / "cache").iterdir())
    assert all("s3cret" not in path.name and b"s3cret" not in path.read_bytes() for path in files)


def test_several_threads_download_the_same_file_once(tmp_path):
    """C40."""

    def slowly(request, _):
        time.sleep(0.2)
        send(request, CONTENT)

    with service(slowly) as server:
        fetcher = a_fetcher(tmp_path, server)
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda _: fetch(fetcher, Link(f"{server.url}/x")), range(3)))
    assert found == [CONTENT] * 3
    assert len(server.requests) == 1


FETCH_PROGRAM = """
import sys
from pathlib import Path
from weights.cache.store import CacheLimits, Store
from weights.fetching import Fetcher
from weights.grammar.records import Link
from weights.network.network import Network, Tokens
url, folder = sys.argv[1:]
network = Network(trusted=frozenset({url}))
fetched = Fetcher(network, Tokens(), Store(Path(folder), CacheLimits(spare_bytes=0))).fetch(Link(url + "/x"))
print(len(fetched.file.read()))
"""


def test_two_processes_download_the_same_file_once(tmp_path):
    """C40."""
    content = bytes(1_000_000)

    def slowly(request, _):
        time.sleep(3)  # longer than the second process takes to start
        send(request, content)

    with service(slowly) as server:
        command = [sys.executable, "-c", FETCH_PROGRAM, server.url, str(tmp_path)]
        running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
        assert [process.communicate()[0] for process in running] == [b"1000000\n"] * 2
    assert len(server.requests) == 1


def test_a_process_killed_during_a_download_leaves_no_usable_file(tmp_path):
    def slowly(request, server):
        if len(server.requests) > 1:
            send(request, CONTENT)
            return
        request.send_response(200)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        request.wfile.write(bytes(500_000))
        request.wfile.flush()
        time.sleep(2)

    with service(slowly) as server:
        fetcher = a_fetcher(tmp_path, server)
        command = [sys.executable, "-c", FETCH_PROGRAM, server.url, str(tmp_path / "cache")]
        process = subprocess.Popen(command, cwd=ROOT)
        while not any(path.stat().st_size for path in (tmp_path / "cache").glob("*.part")):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert fetch(fetcher, Link(f"{server.url}/x")) == CONTENT
    assert list((tmp_path / "cache").glob("*.part")) == []


class Cancelled(BaseException):
    """Like Cog's cancellation, which no code may catch."""


def test_a_cancelled_download_leaves_nothing_and_the_next_one_works(tmp_path):
    def cancel(*_):
        raise Cancelled

    with service(lambda request, _: send(request, CONTENT)) as server:
        fetcher = a_fetcher(tmp_path, server)
        with pytest.raises(Cancelled):
            fetch(replace(fetcher, network=replace(fetcher.network, resolve=cancel)), Link(f"{server.url}/x"))
        assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
        assert fetch(fetcher, Link(f"{server.url}/x")) == CONTENT


def test_owner_and_name_are_first_looked_up_on_replicate(tmp_path):
    """C1, through Replicate's redirect."""

    def reply(request, _):
        if request.path == "/owner/name/_weights":
            redirect(request, "/delivery/trained_model.tar")
        elif request.path == "/delivery/trained_model.tar":
            send(request, CONTENT)
        else:
            send(request, status=404)

    with service(reply) as server:
        assert fetch(a_fetcher(tmp_path, server), UnqualifiedLora("owner", "name")) == CONTENT


def test_a_version_on_replicate_is_requested_by_its_name(tmp_path):
    """C2."""
    with service(lambda request, _: send(request, CONTENT)) as server:
        fetch(a_fetcher(tmp_path, server), ReplicateLora("owner", "name", "abc"))
    assert server.paths() == ["/owner/name/versions/abc/_weights"]


def test_owner_and_name_are_looked_up_on_hugging_face_if_replicate_has_none(tmp_path):
    with service(Hub()) as server:
        fetcher = a_fetcher(tmp_path, server)
        assert fetch(fetcher, UnqualifiedLora("o", "r")) == CONTENT
        before = len(server.requests)
        assert fetch(fetcher, UnqualifiedLora("o", "r")) == CONTENT
        assert len(server.requests) == before
    assert server.paths()[0] == "/o/r/_weights"


def test_a_cached_file_of_hugging_face_does_not_hide_the_one_on_replicate(tmp_path):
    """The result must not depend on earlier requests."""
    hub = Hub(content=b"of Hugging Face")

    def reply(request, server):
        if request.path == "/o/r/_weights":
            send(request, CONTENT)
        else:
            hub(request, server)

    with service(reply) as server:
        fetcher = a_fetcher(tmp_path, server)
        assert fetch(fetcher, HUB) == b"of Hugging Face"
        assert fetch(fetcher, UnqualifiedLora("o", "r")) == CONTENT


def test_a_name_that_is_missing_on_replicate_is_requested_again_after_a_while(tmp_path):
    with service(Hub()) as server:
        fetcher = a_fetcher(tmp_path, server, fresh_seconds=0)
        fetch(fetcher, UnqualifiedLora("o", "r"))
        fetch(fetcher, UnqualifiedLora("o", "r"))
    assert server.paths().count("/o/r/_weights") == 2


def test_a_missing_file_is_not_recorded_for_a_reference_with_one_source(tmp_path):
    """A user may publish a LoRA and try again at once."""
    with service(
        lambda request, server: send(request, CONTENT, status=404 if len(server.requests) == 1 else 200)
    ) as server:
        fetcher = a_fetcher(tmp_path, server)
        assert "not found" in refusal(fetcher, ReplicateLora("o", "r"))
        assert fetch(fetcher, ReplicateLora("o", "r")) == CONTENT


def test_the_error_for_an_unknown_name_contains_both_responses(tmp_path):
    with service(lambda request, _: send(request, status=404)) as server:
        message = refusal(a_fetcher(tmp_path, server), UnqualifiedLora("o", "r"))
    assert message.count("was not found") == 2
    with service(lambda request, _: send(request, status=404 if "_weights" in request.path else 401)) as server:
        message = refusal(a_fetcher(tmp_path, server), UnqualifiedLora("o", "r"))
    assert "was not found" in message
    assert "needs a token" in message


def test_a_lora_on_civitai_is_found_and_its_digest_is_verified(tmp_path):
    """C8, C38."""
    file = {"name": "x.safetensors", "metadata": {"format": "SafeTensor"}, "hashes": {"SHA256": "0" * 64}}

    def reply(request, _):
        if request.path == "/api/v1/model-versions/7":
            send_json(request, {"id": 7, "baseModel": "Flux.1 D", "files": [file]})
        else:
            send(request, CONTENT)

    with service(reply) as server:
        fetcher = a_fetcher(tmp_path, server)
        assert "sha256" in refusal(fetcher, CivitaiLora(None, 7))
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_a_cached_file_with_another_digest_than_at_its_source_is_downloaded_again(tmp_path):
    """The digest takes precedence over a server that responds 304."""
    digest = {"sha256": ""}
    file = {"name": "x.safetensors", "metadata": {"format": "SafeTensor"}, "hashes": {"SHA256": ""}}

    def reply(request, _):
        if request.path == "/api/v1/model-versions/7":
            send_json(
                request, {"id": 7, "baseModel": "Flux.1 D", "files": [{**file, "hashes": {"SHA256": digest["sha256"]}}]}
            )
        else:
            send_from(request, CONTENT, etag='"1"')

    with service(reply) as server:
        fetcher = a_fetcher(tmp_path, server, fresh_seconds=0)
        assert fetch(fetcher, CivitaiLora(None, 7)) == CONTENT
        digest["sha256"] = "0" * 64
        assert "sha256" in refusal(fetcher, CivitaiLora(None, 7))


def test_a_removed_file_is_downloaded_again(tmp_path):
    with service(lambda request, _: send(request, CONTENT)) as server:
        fetcher = a_fetcher(tmp_path, server)
        for count in (1, 2):
            fetched = fetcher.fetch(Link(f"{server.url}/x"))
            fetched.file.close()
            fetcher.remove(fetched.key)
            assert len(server.requests) == count


def test_an_empty_file_is_always_refused_and_not_replaced_by_one_on_hugging_face(tmp_path):
    """Replicate has the name; the model of that name on Hugging Face may belong to another owner."""
    hub = Hub()

    def reply(request, server):
        if request.path == "/o/r/_weights":
            send(request)
        else:
            hub(request, server)

    with service(reply) as server:
        fetcher = a_fetcher(tmp_path, server)
        for _ in range(2):
            assert "empty file by 127.0.0.1" in refusal(fetcher, UnqualifiedLora("o", "r"))
    assert server.paths() == ["/o/r/_weights"] * 2


def test_a_full_disk_is_reported_and_no_file_is_left(tmp_path):
    """C41."""
    with service(lambda request, _: send(request, CONTENT)) as server:
        network = a_network(server)
        fetcher = Fetcher(network, Tokens(), Store(tmp_path / "cache", CacheLimits(spare_bytes=2**60)))
        with pytest.raises(OSError, match="does not fit on the disk"):
            fetcher.fetch(Link(f"{server.url}/x"))
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("reference", ["https://huggingface.co.evil.com/a/b", "https://civitai.com.evil.com/models/1"])
def test_no_token_is_sent_to_a_host_that_only_looks_like_a_service(tmp_path, reference):
    """C19."""
    with service(lambda request, _: send(request, CONTENT)) as server:
        fetcher = a_fetcher(tmp_path, server, hugging_face="s3cret", civitai="s3cret", replicate="s3cret")
        link = parse_reference(reference)
        fetch(fetcher, Link(f"{server.url}/{link.url.split('/')[-1]}"))
    assert "authorization" not in server.requests[0].headers
