"""Downloads: limited, resumed, retried, and never a mixture of two versions; group C, C22 to C41."""

import gzip
import hashlib
import time
from dataclasses import replace

import pytest

from tests.services import SHORT_TIMEOUTS, a_network, redirect, send, send_from, send_head, service, silent_port
from weights.network import download as download_module
from weights.network.client import HttpRequest
from weights.network.download import RemoteFile, download
from weights.network.failures import NotFound
from weights.network.network import NetworkTimeouts

CONTENT = bytes(range(256)) * 4000
OTHER = CONTENT[::-1]
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def fetch(server, tmp_path, *, sha256="", known_etag="", token="", timeouts=SHORT_TIMEOUTS):
    into = tmp_path / "file"
    network = a_network(server, timeouts=timeouts)
    remote_file = RemoteFile(
        HttpRequest(f"{getattr(server, 'url', server)}/x.safetensors?sig=s3cret", token=token), sha256
    )
    downloaded = download(remote_file, into, lambda size: None, network, known_etag=known_etag)
    return downloaded, into.read_bytes()


def refusal(server, tmp_path, **options):
    with pytest.raises(ValueError) as error:
        fetch(server, tmp_path, **options)
    assert "\n" not in str(error.value)
    assert "s3cret" not in str(error.value)
    return str(error.value)


def cut_off(request, content, after, *, etag='"1"'):
    """Announce the whole length, but send only the start."""
    send_head(request, 200, Content_Length=str(len(content)), ETag=etag)
    request.wfile.write(content[:after])


def test_a_file_is_downloaded_with_its_digest_and_etag(tmp_path):
    with service(lambda request, _: send(request, CONTENT, ETag='"1"')) as server:
        downloaded, content = fetch(server, tmp_path)
    assert content == CONTENT
    assert (downloaded.sha256, downloaded.size, downloaded.etag) == (SHA256, len(CONTENT), '"1"')
    assert len(server.requests) == 1


def test_a_chunked_file_is_downloaded(tmp_path):
    def reply(request, _):
        request.protocol_version = "HTTP/1.1"
        send_head(request, 200, Transfer_Encoding="chunked")
        for chunk in (CONTENT[:1000], CONTENT[1000:]):
            request.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        request.wfile.write(b"0\r\n\r\n")
        request.close_connection = True

    with service(reply) as server:
        assert fetch(server, tmp_path)[1] == CONTENT


@pytest.mark.parametrize("status", [401, 403])
def test_a_private_file_needs_a_token_and_is_not_retried(status, tmp_path):
    """C22."""
    with service(lambda request, _: send(request, b"body s3cret", status=status)) as server:
        assert "needs a token" in refusal(server, tmp_path)
        assert "not accessible with this token" in refusal(server, tmp_path, token="s3cret")
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [404, 410])
def test_a_missing_file_is_distinguished_from_a_private_one(status, tmp_path):
    with service(lambda request, _: send(request, status=status)) as server, pytest.raises(NotFound, match="not found"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 402, 451, 204])
def test_another_status_is_refused_without_a_retry(status, tmp_path):
    with service(lambda request, _: send(request, status=status)) as server:
        assert str(status) in refusal(server, tmp_path)
    assert len(server.requests) == 1


def test_the_delay_that_a_server_requests_is_respected(tmp_path):
    """C23."""

    def reply(request, server):
        if len(server.requests) == 1:
            send(request, status=429, Retry_After="1")
        else:
            send(request, CONTENT)

    started = time.monotonic()
    with service(reply) as server:
        assert fetch(server, tmp_path)[1] == CONTENT
    assert 1 <= time.monotonic() - started < 3


def test_a_server_that_requests_too_long_a_delay_is_given_up(tmp_path):
    with service(lambda request, _: send(request, status=429, Retry_After="4")) as server:
        assert "429" in refusal(server, tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 500, 502, 503])
def test_a_transient_failure_is_retried(status, tmp_path):
    with service(
        lambda request, server: send(request, CONTENT, status=status if len(server.requests) < 3 else 200)
    ) as server:
        assert fetch(server, tmp_path)[1] == CONTENT
    assert len(server.requests) == 3


def test_a_permanent_failure_is_reported_after_six_attempts(tmp_path):
    """C25."""
    with service(lambda request, _: send(request, status=503)) as server:
        assert "503, 6 times" in refusal(server, tmp_path)
    assert len(server.requests) == 6


def test_all_delays_of_production_together_are_under_a_minute():
    """C25."""
    assert sum(NetworkTimeouts().retry_delays) * 1.25 < 60


def test_an_unreachable_host_is_reported_within_half_a_minute():
    """C26: two attempts."""
    assert NetworkTimeouts().connect * 2 + NetworkTimeouts().retry_delays[0] * 1.25 < 30


def test_a_server_that_never_responds_is_retried_and_then_reported(tmp_path):
    """C26."""
    with silent_port() as url:
        assert "no response from 127.0.0.1" in refusal(
            url, tmp_path, timeouts=replace(SHORT_TIMEOUTS, retry_delays=(0.01,))
        )


def test_a_silent_server_is_given_up_within_the_time_for_all_attempts(tmp_path):
    started = time.monotonic()
    with silent_port() as url:
        message = refusal(url, tmp_path, timeouts=replace(SHORT_TIMEOUTS, max_total_delay=0.7))
    assert message.startswith("got no response from 127.0.0.1, ")
    assert message.endswith(" times; this program gave up after waiting for 1 s")
    assert time.monotonic() - started < 1.2


def test_redirects_share_the_time_that_a_server_may_be_silent(tmp_path):
    """Each would otherwise have the timeout of its own."""

    def slow(request, _):
        time.sleep(0.3)
        redirect(request, f"{request.path}x")

    started = time.monotonic()
    with service(slow) as server:
        timeouts = replace(SHORT_TIMEOUTS, max_total_delay=0.7)
        assert "got no response" in refusal(server, tmp_path, timeouts=timeouts)
    assert time.monotonic() - started < 1.2


def test_the_error_for_a_web_page_names_the_token(tmp_path):
    with service(lambda request, _: send(request, b"<html>", Content_Type="text/html")) as server:
        remote_file = RemoteFile(HttpRequest(f"{server.url}/x", token_input="civitai_api_token"))
        with pytest.raises(ValueError, match="a login may need civitai_api_token"):
            download(remote_file, tmp_path / "x", lambda _: None, a_network(server))


def test_a_length_over_the_limit_is_refused_before_the_body_is_read(tmp_path):
    """C32."""
    with service(lambda request, _: send_head(request, 200, Content_Length="100000000000")) as server:
        assert "100,000,000,000 bytes" in refusal(server, tmp_path)
    assert len(server.requests) == 1


def test_a_body_without_a_length_is_stopped_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "MAX_BYTES", 100_000)

    def reply(request, _):
        send_head(request, 200)
        for _ in range(10_000):
            request.wfile.write(CONTENT)

    with service(reply) as server:
        assert "expected at most 100,000" in refusal(server, tmp_path)
    assert (tmp_path / "file").stat().st_size < 100_000 + 2 * download_module.CHUNK_BYTES


def test_a_file_that_is_cut_off_is_resumed(tmp_path):
    """C34."""

    def reply(request, server):
        if len(server.requests) == 1:
            cut_off(request, CONTENT, 300_000)
        else:
            send_from(request, CONTENT, etag='"1"')

    with service(reply) as server:
        downloaded, content = fetch(server, tmp_path)
    assert content == CONTENT
    assert downloaded.sha256 == SHA256
    assert server.requests[1].headers["range"] == "bytes=300000-"
    assert server.requests[1].headers["if-range"] == '"1"'


def test_a_file_that_is_always_cut_off_is_reported(tmp_path):
    """C34."""
    with service(lambda request, _: cut_off(request, CONTENT[:1000], 10)) as server:
        assert "cut off" in refusal(server, tmp_path)
    assert len(server.requests) == 6


def test_a_download_restarts_if_the_server_ignores_the_range(tmp_path):
    """C35."""

    def reply(request, server):
        if len(server.requests) == 1:
            cut_off(request, CONTENT, 300_000)
        else:
            send(request, CONTENT, ETag='"1"')

    with service(reply) as server:
        assert fetch(server, tmp_path)[1] == CONTENT


def test_two_versions_of_a_file_are_never_joined(tmp_path):
    """C35: a correct server sends the new version from its start."""

    def reply(request, server):
        if len(server.requests) == 1:
            cut_off(request, CONTENT, 300_000)
        else:
            send_from(request, OTHER, etag='"2"')

    with service(reply) as server:
        downloaded, content = fetch(server, tmp_path)
    assert content == OTHER
    assert downloaded.etag == '"2"'


@pytest.mark.parametrize(
    ("first", "total", "etag"),
    [
        (300_000, len(CONTENT), '"2"'),
        (299_999, len(CONTENT), '"1"'),
        (300_000, len(CONTENT) + 1, '"1"'),
        (300_000, len(CONTENT), ""),
    ],
)
def test_a_part_that_does_not_continue_the_first_one_is_discarded(tmp_path, first, total, etag):
    """C35: servers that send a part of another version, at another position, or of another length."""

    def reply(request, server):
        if len(server.requests) == 1:
            cut_off(request, CONTENT, 300_000)
        elif len(server.requests) == 2:
            content_range = f"bytes {first}-{len(CONTENT) - 1}/{total}"
            send(request, OTHER[first:], status=206, ETag=etag, Content_Range=content_range)
        else:
            send(request, OTHER, ETag='"2"')

    with service(reply) as server:
        downloaded, content = fetch(server, tmp_path)
    assert content == OTHER
    assert downloaded.sha256 == hashlib.sha256(OTHER).hexdigest()
    assert "range" not in server.requests[2].headers


def test_a_resumed_part_without_a_length_that_is_cut_off_is_resumed_again(tmp_path):
    """C34: only the total in Content-Range shows that bytes are missing."""

    def reply(request, server):
        if len(server.requests) == 1:
            cut_off(request, CONTENT, 300_000)
        elif len(server.requests) == 2:
            content_range = f"bytes 300000-{len(CONTENT) - 1}/{len(CONTENT)}"
            send_head(request, 206, ETag='"1"', Content_Range=content_range)
            request.wfile.write(CONTENT[300_000:400_000])
        else:
            send_from(request, CONTENT, etag='"1"')

    with service(reply) as server:
        assert fetch(server, tmp_path)[1] == CONTENT
    assert server.requests[2].headers["range"] == "bytes=400000-"


def test_a_part_that_was_not_requested_is_refused(tmp_path):
    content_range = f"bytes 10-{len(CONTENT) - 1}/{len(CONTENT)}"
    with service(lambda request, _: send(request, CONTENT[10:], status=206, Content_Range=content_range)) as server:
        assert "changed" in refusal(server, tmp_path)


@pytest.mark.parametrize("etag", ["", 'W/"1"'])
def test_without_a_strong_etag_nothing_is_resumed(tmp_path, etag):
    def reply(request, server):
        if len(server.requests) == 1:
            cut_off(request, CONTENT, 300_000, etag=etag)
        else:
            send(request, OTHER)

    with service(reply) as server:
        assert fetch(server, tmp_path)[1] == OTHER
    assert "range" not in server.requests[1].headers


def test_a_download_restarts_if_the_range_is_not_satisfiable(tmp_path):
    def reply(request, server):
        if len(server.requests) == 1:
            cut_off(request, CONTENT, 300_000)
        elif len(server.requests) == 2:
            send(request, status=416)
        else:
            send(request, CONTENT)

    with service(reply) as server:
        assert fetch(server, tmp_path)[1] == CONTENT


def test_a_web_page_is_refused(tmp_path):
    """C37."""
    with service(lambda request, _: send(request, b"<html>log in", Content_Type="text/html; charset=utf-8")) as server:
        assert "sent a web page" in refusal(server, tmp_path)
    assert len(server.requests) == 1


def test_a_compressed_response_is_refused(tmp_path):
    """Otherwise Content-Length would not limit the size."""
    bomb = gzip.compress(bytes(10_000_000))
    with service(lambda request, _: send(request, bomb, Content_Encoding="gzip")) as server:
        assert "compressed" in refusal(server, tmp_path)


def test_the_digest_that_the_source_publishes_is_verified(tmp_path):
    """C38."""
    with service(lambda request, _: send(request, CONTENT)) as server:
        assert fetch(server, tmp_path, sha256=SHA256)[1] == CONTENT
        assert "sha256" in refusal(server, tmp_path, sha256="0" * 64)


def test_an_unchanged_file_is_not_downloaded_again(tmp_path):
    """C43."""
    with service(lambda request, _: send_from(request, CONTENT, etag='"1"')) as server:
        assert fetch(server, tmp_path, known_etag='"1"') == (None, b"")
        downloaded, content = fetch(server, tmp_path, known_etag='"0"')
    assert content == CONTENT
    assert downloaded.etag == '"1"'


def test_the_body_is_not_read_if_the_server_sends_the_known_version(tmp_path):
    def reply(request, _):
        send_head(request, 200, Content_Length=str(len(CONTENT)), ETag='"1"')
        request.wfile.write(CONTENT[:1000])

    with service(reply) as server:
        assert fetch(server, tmp_path, known_etag='"1"') == (None, b"")
    assert len(server.requests) == 1


def test_not_modified_is_refused_for_a_file_that_is_not_cached(tmp_path):
    with service(lambda request, _: send_head(request, 304)) as server:
        assert "304" in refusal(server, tmp_path)


def test_a_body_below_the_minimum_speed_is_given_up(tmp_path):
    def reply(request, _):
        send_head(request, 200, Content_Length="1000000")
        for _ in range(100):
            request.wfile.write(b"x")
            time.sleep(0.05)

    started = time.monotonic()
    with service(reply) as server:
        assert "too slowly" in refusal(server, tmp_path)
    assert time.monotonic() - started < 3


def test_a_chunk_header_that_arrives_byte_by_byte_is_given_up(tmp_path):
    """The line with the length of the next chunk never ends; each byte arrives within the read timeout."""

    def drip(request, _):
        request.protocol_version = "HTTP/1.1"
        send_head(request, 200, Transfer_Encoding="chunked")
        for _ in range(200):
            request.wfile.write(b"f")
            time.sleep(0.1)

    with service(drip) as server:
        started = time.monotonic()
        assert "too slow" in refusal(server, tmp_path, timeouts=replace(SHORT_TIMEOUTS, total=1))
    assert time.monotonic() - started < 5


def test_a_download_has_a_total_timeout(tmp_path):
    """The speed is sufficient, but the body never ends."""

    def reply(request, _):
        send_head(request, 200)
        while True:
            request.wfile.write(CONTENT[:10_000])
            time.sleep(0.02)

    started = time.monotonic()
    with service(reply) as server:
        assert "too slow" in refusal(server, tmp_path, timeouts=replace(SHORT_TIMEOUTS, total=0.8))
    assert time.monotonic() - started < 4


def test_room_is_made_before_the_first_byte_is_written(tmp_path):
    """C41."""
    sizes = []

    def no_room(size):
        sizes.append(size)
        raise OSError("no room")

    with service(lambda request, _: send(request, CONTENT)) as server, pytest.raises(OSError, match="no room"):
        download(RemoteFile(HttpRequest(server.url)), tmp_path / "file", no_room, a_network(server))
    assert sizes == [len(CONTENT)]
    assert (tmp_path / "file").read_bytes() == b""


def test_room_is_made_for_every_block_of_a_file_of_unknown_length(tmp_path, monkeypatch):
    """C41: otherwise the cache would exceed its limit and the disk its reserve."""
    monkeypatch.setattr(download_module, "RESERVED_BYTES", 300_000)
    monkeypatch.setattr(download_module, "CHUNK_BYTES", 50_000)
    sizes = []

    def no_room_for_a_third(size):
        sizes.append(size)
        if len(sizes) > 2:
            raise OSError("no room")

    def reply(request, _):
        send_head(request, 200)
        request.wfile.write(CONTENT)

    with service(reply) as server, pytest.raises(OSError, match="no room"):
        download(RemoteFile(HttpRequest(server.url)), tmp_path / "file", no_room_for_a_third, a_network(server))
    assert sizes == [300_000] * 3
    assert (tmp_path / "file").stat().st_size <= 600_000
