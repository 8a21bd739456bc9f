"""A remote LoRA becomes an open file: fetched once, for those whom its source lets in; C40 to C44."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from script.cog_server import ROOT
from tests.services import a_network, redirect, send, send_from, send_json, service
from weights.cache.store import Room, Store
from weights.fetching import Fetcher
from weights.grammar.grammar import parse_reference
from weights.grammar.records import CivitaiLora, HubLora, Link, ReplicateLora, UnqualifiedLora
from weights.network.network import Tokens

CONTENT = b"a LoRA, for all that this room knows"
HUB = HubLora("o/r")


def a_fetcher(tmp_path, it, *, fresh_seconds=600.0, **tokens):
    network = a_network(it, hugging_face=it.url, civitai=it.url, replicate=it.url)
    return Fetcher(
        network, Tokens(**tokens), Store(tmp_path / "cache", Room(spare_bytes=0, fresh_seconds=fresh_seconds))
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
    """Hugging Face as far as a LoRA needs it; its one repository is private to those with a token of `tokens`."""

    def __init__(self, *, tokens=(), content=CONTENT, commit="c1"):
        self.tokens, self.content, self.commit = {f"Bearer {token}" for token in tokens}, content, commit
        self.sent = 0

    def __call__(self, request, _):
        if self.tokens and request.headers.get("Authorization") not in self.tokens:
            send(request, status=401)
        elif request.path.startswith("/api/models/o/r/"):
            send_json(request, {"sha": self.commit, "siblings": [{"rfilename": "x.safetensors"}]})
        elif request.path == f"/o/r/resolve/{self.commit}/x.safetensors":
            self.sent += request.headers.get("If-None-Match") != f'"{self.commit}"'
            send_from(request, self.content, etag=f'"{self.commit}"')
        else:
            send(request, status=404)


def test_a_file_is_fetched_once_and_nobody_is_asked_while_it_is_fresh(tmp_path):
    with service(Hub()) as it:
        fetcher = a_fetcher(tmp_path, it)
        assert fetch(fetcher, HUB) == CONTENT
        assert fetch(fetcher, HUB) == CONTENT
        assert fetch(a_fetcher(tmp_path, it), HUB) == CONTENT
    assert len(it.asked) == 2


def test_a_file_that_did_not_change_is_asked_for_and_not_sent_again(tmp_path):
    """C43."""
    hub = Hub()
    with service(hub) as it:
        fetcher = a_fetcher(tmp_path, it, fresh_seconds=0)
        assert fetch(fetcher, HUB) == CONTENT
        assert fetch(fetcher, HUB) == CONTENT
    assert hub.sent == 1
    assert len(it.asked) == 4


def test_a_file_that_changed_is_fetched_again(tmp_path):
    """C43."""
    hub = Hub()
    with service(hub) as it:
        fetcher = a_fetcher(tmp_path, it, fresh_seconds=0)
        fetch(fetcher, HUB)
        hub.content, hub.commit = b"newer", "c2"
        assert fetch(fetcher, HUB) == b"newer"
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1


def test_a_private_file_in_the_cache_is_given_only_to_those_whom_its_source_lets_in(tmp_path):
    """The peers' C2: fetched with one person's token, served to everybody."""
    hub = Hub(tokens=["mine", "ours"])
    with service(hub) as it:
        assert fetch(a_fetcher(tmp_path, it, hugging_face="mine"), HUB) == CONTENT
        assert "needs a token" in refusal(a_fetcher(tmp_path, it), HUB)
        assert "closed to this token" in refusal(a_fetcher(tmp_path, it, hugging_face="theirs"), HUB)
        assert fetch(a_fetcher(tmp_path, it, hugging_face="mine"), HUB) == CONTENT


def test_a_second_token_that_is_let_in_shares_the_one_file(tmp_path):
    """C44."""
    hub = Hub(tokens=["mine", "ours"])
    with service(hub) as it:
        fetch(a_fetcher(tmp_path, it, hugging_face="mine"), HUB)
        assert fetch(a_fetcher(tmp_path, it, hugging_face="ours"), HUB) == CONTENT
        before = len(it.asked)
        fetch(a_fetcher(tmp_path, it, hugging_face="ours"), HUB)
        assert len(it.asked) == before
    assert hub.sent == 1
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1


def test_two_signatures_share_one_file_and_a_wrong_one_is_not_let_in(tmp_path):
    """C11, C44."""

    def reply(request, _):
        if "X-Amz-Signature=good" in request.path:
            send_from(request, CONTENT, etag='"1"')
        else:
            send(request, status=403)

    with service(reply) as it:
        fetcher = a_fetcher(tmp_path, it)
        assert fetch(fetcher, Link(f"{it.url}/x.tar?X-Amz-Signature=good1&id=2")) == CONTENT
        assert fetch(fetcher, Link(f"{it.url}/x.tar?X-Amz-Signature=good2&id=2")) == CONTENT
        assert "expired" in refusal(fetcher, Link(f"{it.url}/x.tar?X-Amz-Signature=bad&id=2"))
    assert it.paths()[0] == "/x.tar?X-Amz-Signature=good1&id=2"
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1


def test_nothing_in_the_cache_holds_a_secret(tmp_path):
    with service(Hub(tokens=["s3cret"])) as it:
        fetch(a_fetcher(tmp_path, it, hugging_face="s3cret"), HUB)
    with service(lambda request, _: send(request, CONTENT)) as it:
        fetch(a_fetcher(tmp_path, it), Link(f"{it.url}/x.tar?Signature=s3cret"))
    files = list((tmp_path / "cache").iterdir())
    assert all("s3cret" not in path.name and b"s3cret" not in path.read_bytes() for path in files)


def test_two_threads_that_want_one_file_fetch_it_once(tmp_path):
    """C40."""

    def slowly(request, _):
        time.sleep(0.2)
        send(request, CONTENT)

    with service(slowly) as it:
        fetcher = a_fetcher(tmp_path, it)
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda _: fetch(fetcher, Link(f"{it.url}/x")), range(3)))
    assert found == [CONTENT] * 3
    assert len(it.asked) == 1


FETCHING = """
import sys
from pathlib import Path
from weights.cache.store import Room, Store
from weights.fetching import Fetcher
from weights.grammar.records import Link
from weights.network.network import Network, Tokens
url, folder = sys.argv[1:]
network = Network(trusted=frozenset({url}))
fetched = Fetcher(network, Tokens(), Store(Path(folder), Room(spare_bytes=0))).fetch(Link(url + "/x"))
print(len(fetched.file.read()))
"""


def test_two_processes_that_want_one_file_fetch_it_once(tmp_path):
    """C40."""
    content = bytes(1_000_000)

    def slowly(request, _):
        time.sleep(3)  # longer than the second process needs to start
        send(request, content)

    with service(slowly) as it:
        command = [sys.executable, "-c", FETCHING, it.url, str(tmp_path)]
        running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
        assert [process.communicate()[0] for process in running] == [b"1000000\n"] * 2
    assert len(it.asked) == 1


def test_a_process_killed_in_a_download_leaves_nothing_that_counts(tmp_path):
    def slowly(request, it):
        if len(it.asked) > 1:
            send(request, CONTENT)
            return
        request.send_response(200)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        request.wfile.write(bytes(500_000))
        request.wfile.flush()
        time.sleep(2)

    with service(slowly) as it:
        fetcher = a_fetcher(tmp_path, it)
        command = [sys.executable, "-c", FETCHING, it.url, str(tmp_path / "cache")]
        process = subprocess.Popen(command, cwd=ROOT)
        while not any(path.stat().st_size for path in (tmp_path / "cache").glob("*.part")):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert fetch(fetcher, Link(f"{it.url}/x")) == CONTENT
    assert list((tmp_path / "cache").glob("*.part")) == []


class Cancelled(BaseException):
    """As Cog's cancellation, which no room may catch."""


def test_a_cancel_in_a_download_leaves_nothing_and_the_next_fetch_works(tmp_path):
    def cancel(*_):
        raise Cancelled

    with service(lambda request, _: send(request, CONTENT)) as it:
        fetcher = a_fetcher(tmp_path, it)
        with pytest.raises(Cancelled):
            fetch(replace(fetcher, network=replace(fetcher.network, resolve=cancel)), Link(f"{it.url}/x"))
        assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
        assert fetch(fetcher, Link(f"{it.url}/x")) == CONTENT


def test_owner_and_name_are_replicates_if_it_has_them(tmp_path):
    """C1, through the redirect that Replicate answers with."""

    def reply(request, _):
        if request.path == "/owner/name/_weights":
            redirect(request, "/delivery/trained_model.tar")
        elif request.path == "/delivery/trained_model.tar":
            send(request, CONTENT)
        else:
            send(request, status=404)

    with service(reply) as it:
        assert fetch(a_fetcher(tmp_path, it), UnqualifiedLora("owner", "name")) == CONTENT


def test_a_version_on_replicate_is_that_version(tmp_path):
    """C2."""
    with service(lambda request, _: send(request, CONTENT)) as it:
        fetch(a_fetcher(tmp_path, it), ReplicateLora("owner", "name", "abc"))
    assert it.paths() == ["/owner/name/versions/abc/_weights"]


def test_owner_and_name_are_hugging_faces_if_replicate_has_none(tmp_path):
    with service(Hub()) as it:
        fetcher = a_fetcher(tmp_path, it)
        assert fetch(fetcher, UnqualifiedLora("o", "r")) == CONTENT
        before = len(it.asked)
        assert fetch(fetcher, UnqualifiedLora("o", "r")) == CONTENT
        assert len(it.asked) == before
    assert it.paths()[0] == "/o/r/_weights"


def test_what_the_cache_holds_of_hugging_face_does_not_hide_what_replicate_has(tmp_path):
    """Which of the two is meant depends on nobody's earlier requests."""
    hub = Hub(content=b"of Hugging Face")

    def reply(request, it):
        if request.path == "/o/r/_weights":
            send(request, CONTENT)
        else:
            hub(request, it)

    with service(reply) as it:
        fetcher = a_fetcher(tmp_path, it)
        assert fetch(fetcher, HUB) == b"of Hugging Face"
        assert fetch(fetcher, UnqualifiedLora("o", "r")) == CONTENT


def test_replicate_is_asked_again_after_a_while_whether_it_has_a_name(tmp_path):
    with service(Hub()) as it:
        fetcher = a_fetcher(tmp_path, it, fresh_seconds=0)
        fetch(fetcher, UnqualifiedLora("o", "r"))
        fetch(fetcher, UnqualifiedLora("o", "r"))
    assert it.paths().count("/o/r/_weights") == 2


def test_that_nobody_has_a_file_is_not_remembered_where_only_one_place_is_meant(tmp_path):
    """Somebody publishes a LoRA, and tries again at once."""
    with service(lambda request, it: send(request, CONTENT, status=404 if len(it.asked) == 1 else 200)) as it:
        fetcher = a_fetcher(tmp_path, it)
        assert "not found" in refusal(fetcher, ReplicateLora("o", "r"))
        assert fetch(fetcher, ReplicateLora("o", "r")) == CONTENT


def test_owner_and_name_that_nobody_has_are_refused_with_both_answers(tmp_path):
    with service(lambda request, _: send(request, status=404)) as it:
        message = refusal(a_fetcher(tmp_path, it), UnqualifiedLora("o", "r"))
    assert message.count("was not found") == 2
    with service(lambda request, _: send(request, status=404 if "_weights" in request.path else 401)) as it:
        message = refusal(a_fetcher(tmp_path, it), UnqualifiedLora("o", "r"))
    assert "was not found" in message
    assert "needs a token" in message


def test_a_lora_of_civitai_is_looked_up_and_checked(tmp_path):
    """C8, C38."""
    file = {"name": "x.safetensors", "metadata": {"format": "SafeTensor"}, "hashes": {"SHA256": "0" * 64}}

    def reply(request, _):
        if request.path == "/api/v1/model-versions/7":
            send_json(request, {"id": 7, "baseModel": "Flux.1 D", "files": [file]})
        else:
            send(request, CONTENT)

    with service(reply) as it:
        fetcher = a_fetcher(tmp_path, it)
        assert "sha256" in refusal(fetcher, CivitaiLora(None, 7))
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_a_file_whose_digest_its_source_says_is_another_is_fetched_again(tmp_path):
    """A server that says 'unchanged' is not believed against the digest."""
    digest = {"sha256": ""}
    file = {"name": "x.safetensors", "metadata": {"format": "SafeTensor"}, "hashes": {"SHA256": ""}}

    def reply(request, _):
        if request.path == "/api/v1/model-versions/7":
            send_json(
                request, {"id": 7, "baseModel": "Flux.1 D", "files": [{**file, "hashes": {"SHA256": digest["sha256"]}}]}
            )
        else:
            send_from(request, CONTENT, etag='"1"')

    with service(reply) as it:
        fetcher = a_fetcher(tmp_path, it, fresh_seconds=0)
        assert fetch(fetcher, CivitaiLora(None, 7)) == CONTENT
        digest["sha256"] = "0" * 64
        assert "sha256" in refusal(fetcher, CivitaiLora(None, 7))


def test_a_file_is_forgotten_when_it_is_no_lora(tmp_path):
    with service(lambda request, _: send(request, CONTENT)) as it:
        fetcher = a_fetcher(tmp_path, it)
        for count in (1, 2):
            fetched = fetcher.fetch(Link(f"{it.url}/x"))
            fetched.file.close()
            fetcher.forget(fetched.key)
            assert len(it.asked) == count


def test_an_empty_file_is_refused_every_time_and_nobody_elses_is_used_in_its_place(tmp_path):
    """That Replicate has the name is known; Hugging Face's model of that name is another owner's."""
    hub = Hub()

    def reply(request, it):
        if request.path == "/o/r/_weights":
            send(request)
        else:
            hub(request, it)

    with service(reply) as it:
        fetcher = a_fetcher(tmp_path, it)
        for _ in range(2):
            assert "empty file by 127.0.0.1" in refusal(fetcher, UnqualifiedLora("o", "r"))
    assert it.paths() == ["/o/r/_weights"] * 2


def test_a_full_disk_is_told_and_nothing_stays(tmp_path):
    """C41."""
    with service(lambda request, _: send(request, CONTENT)) as it:
        network = a_network(it)
        fetcher = Fetcher(network, Tokens(), Store(tmp_path / "cache", Room(spare_bytes=2**60)))
        with pytest.raises(OSError, match="does not fit on the disk"):
            fetcher.fetch(Link(f"{it.url}/x"))
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("reference", ["https://huggingface.co.evil.com/a/b", "https://civitai.com.evil.com/models/1"])
def test_no_token_goes_to_a_host_that_only_looks_like_a_service(tmp_path, reference):
    """C19."""
    with service(lambda request, _: send(request, CONTENT)) as it:
        fetcher = a_fetcher(tmp_path, it, hugging_face="s3cret", civitai="s3cret", replicate="s3cret")
        link = parse_reference(reference)
        fetch(fetcher, Link(f"{it.url}/{link.url.split('/')[-1]}"))
    assert "authorization" not in it.asked[0].headers
