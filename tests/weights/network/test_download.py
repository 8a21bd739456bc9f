"""A download: within limits, resumed, repeated, and never made of two versions: group C, C22 to C41."""

import gzip
import hashlib
import time
from dataclasses import replace

import pytest

from tests.services import SHORT_TIMEOUTS, a_network, send, send_from, send_head, service, silent_port
from weights.network import download as room
from weights.network.client import Question
from weights.network.download import Wanted, download
from weights.network.failures import NotFound
from weights.network.network import NetworkTimeouts

CONTENT = bytes(range(256)) * 4000
OTHER = CONTENT[::-1]
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def fetch(it, tmp_path, *, sha256="", known="", token="", patience=SHORT_TIMEOUTS):
    into = tmp_path / "file"
    network = a_network(it, patience=patience)
    wanted = Wanted(Question(f"{getattr(it, 'url', it)}/x.safetensors?sig=s3cret", token=token), sha256)
    found = download(wanted, into, lambda size: None, network, known=known)
    return found, into.read_bytes()


def refusal(it, tmp_path, **given):
    with pytest.raises(ValueError) as error:
        fetch(it, tmp_path, **given)
    assert "\n" not in str(error.value)
    assert "s3cret" not in str(error.value)
    return str(error.value)


def cut_off(request, content, after, *, etag='"1"'):
    """Promise all, send a part."""
    send_head(request, 200, Content_Length=str(len(content)), ETag=etag)
    request.wfile.write(content[:after])


def test_a_file_arrives_with_its_digest_and_etag(tmp_path):
    with service(lambda request, _: send(request, CONTENT, ETag='"1"')) as it:
        found, content = fetch(it, tmp_path)
    assert content == CONTENT
    assert (found.sha256, found.size, found.etag) == (SHA256, len(CONTENT), '"1"')
    assert len(it.asked) == 1


def test_a_file_in_chunks_arrives(tmp_path):
    def reply(request, _):
        request.protocol_version = "HTTP/1.1"
        send_head(request, 200, Transfer_Encoding="chunked")
        for piece in (CONTENT[:1000], CONTENT[1000:]):
            request.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        request.wfile.write(b"0\r\n\r\n")
        request.close_connection = True

    with service(reply) as it:
        assert fetch(it, tmp_path)[1] == CONTENT


@pytest.mark.parametrize("status", [401, 403])
def test_a_closed_file_needs_a_token_and_is_not_asked_for_again(status, tmp_path):
    """C22."""
    with service(lambda request, _: send(request, b"body s3cret", status=status)) as it:
        assert "needs a token" in refusal(it, tmp_path)
        assert "closed to this token" in refusal(it, tmp_path, token="s3cret")
    assert len(it.asked) == 2


@pytest.mark.parametrize("status", [404, 410])
def test_a_file_that_is_not_there_is_told_apart_from_a_closed_one(status, tmp_path):
    with service(lambda request, _: send(request, status=status)) as it, pytest.raises(NotFound, match="not found"):
        fetch(it, tmp_path)
    assert len(it.asked) == 1


@pytest.mark.parametrize("status", [400, 402, 451, 204])
def test_another_status_is_refused_at_once(status, tmp_path):
    with service(lambda request, _: send(request, status=status)) as it:
        assert str(status) in refusal(it, tmp_path)
    assert len(it.asked) == 1


def test_a_server_that_asks_for_patience_gets_it(tmp_path):
    """C23."""

    def reply(request, it):
        if len(it.asked) == 1:
            send(request, status=429, Retry_After="1")
        else:
            send(request, CONTENT)

    begun = time.monotonic()
    with service(reply) as it:
        assert fetch(it, tmp_path)[1] == CONTENT
    assert 1 <= time.monotonic() - begun < 3


def test_a_server_that_asks_for_too_much_patience_is_left(tmp_path):
    with service(lambda request, _: send(request, status=429, Retry_After="4")) as it:
        assert "429" in refusal(it, tmp_path)
    assert len(it.asked) == 1


@pytest.mark.parametrize("status", [408, 500, 502, 503])
def test_a_passing_failure_is_tried_again(status, tmp_path):
    with service(lambda request, it: send(request, CONTENT, status=status if len(it.asked) < 3 else 200)) as it:
        assert fetch(it, tmp_path)[1] == CONTENT
    assert len(it.asked) == 3


def test_a_failure_for_ever_is_told_after_six_attempts(tmp_path):
    """C25."""
    with service(lambda request, _: send(request, status=503)) as it:
        assert "503, 6 times" in refusal(it, tmp_path)
    assert len(it.asked) == 6


def test_all_pauses_of_production_together_stay_under_a_minute():
    """C25."""
    assert sum(NetworkTimeouts().pauses) * 1.25 < 60


def test_a_host_that_cannot_be_reached_is_told_within_half_a_minute():
    """C26: two attempts."""
    assert NetworkTimeouts().connecting * 2 + NetworkTimeouts().pauses[0] * 1.25 < 30


def test_a_server_that_never_answers_is_tried_again_and_then_told(tmp_path):
    """C26."""
    with silent_port() as url:
        assert "no answer from 127.0.0.1" in refusal(url, tmp_path, patience=replace(SHORT_TIMEOUTS, pauses=(0.01,)))


def test_a_length_over_the_limit_is_refused_from_the_head(tmp_path):
    """C32."""
    with service(lambda request, _: send_head(request, 200, Content_Length="100000000000")) as it:
        assert "100,000,000,000 bytes" in refusal(it, tmp_path)
    assert len(it.asked) == 1


def test_a_body_without_a_length_is_stopped_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "MOST_BYTES", 100_000)

    def reply(request, _):
        send_head(request, 200)
        for _ in range(10_000):
            request.wfile.write(CONTENT)

    with service(reply) as it:
        assert "expected at most 100,000" in refusal(it, tmp_path)
    assert (tmp_path / "file").stat().st_size < 100_000 + 2 * room.PIECE


def test_a_file_cut_off_is_resumed(tmp_path):
    """C34."""

    def reply(request, it):
        if len(it.asked) == 1:
            cut_off(request, CONTENT, 300_000)
        else:
            send_from(request, CONTENT, etag='"1"')

    with service(reply) as it:
        found, content = fetch(it, tmp_path)
    assert content == CONTENT
    assert found.sha256 == SHA256
    assert it.asked[1].headers["range"] == "bytes=300000-"
    assert it.asked[1].headers["if-range"] == '"1"'


def test_a_file_cut_off_for_ever_is_told(tmp_path):
    """C34."""
    with service(lambda request, _: cut_off(request, CONTENT[:1000], 10)) as it:
        assert "cut off" in refusal(it, tmp_path)
    assert len(it.asked) == 6


def test_a_server_that_ignores_the_range_begins_again(tmp_path):
    """C35."""

    def reply(request, it):
        if len(it.asked) == 1:
            cut_off(request, CONTENT, 300_000)
        else:
            send(request, CONTENT, ETag='"1"')

    with service(reply) as it:
        assert fetch(it, tmp_path)[1] == CONTENT


def test_a_file_that_changed_between_two_parts_is_never_spliced(tmp_path):
    """C35: a good server, which sends the new version whole."""

    def reply(request, it):
        if len(it.asked) == 1:
            cut_off(request, CONTENT, 300_000)
        else:
            send_from(request, OTHER, etag='"2"')

    with service(reply) as it:
        found, content = fetch(it, tmp_path)
    assert content == OTHER
    assert found.etag == '"2"'


@pytest.mark.parametrize(
    ("first", "whole", "etag"),
    [
        (300_000, len(CONTENT), '"2"'),
        (299_999, len(CONTENT), '"1"'),
        (300_000, len(CONTENT) + 1, '"1"'),
        (300_000, len(CONTENT), ""),
    ],
)
def test_a_part_that_does_not_go_on_with_the_first_one_is_thrown_away(tmp_path, first, whole, etag):
    """C35: servers that answer with a part of another version, another place, or another length."""

    def reply(request, it):
        if len(it.asked) == 1:
            cut_off(request, CONTENT, 300_000)
        elif len(it.asked) == 2:
            span = f"bytes {first}-{len(CONTENT) - 1}/{whole}"
            send(request, OTHER[first:], status=206, ETag=etag, Content_Range=span)
        else:
            send(request, OTHER, ETag='"2"')

    with service(reply) as it:
        found, content = fetch(it, tmp_path)
    assert content == OTHER
    assert found.sha256 == hashlib.sha256(OTHER).hexdigest()
    assert "range" not in it.asked[2].headers


def test_a_rest_without_a_length_that_is_cut_off_is_resumed_too(tmp_path):
    """C34: only the length of the whole tells."""

    def reply(request, it):
        if len(it.asked) == 1:
            cut_off(request, CONTENT, 300_000)
        elif len(it.asked) == 2:
            span = f"bytes 300000-{len(CONTENT) - 1}/{len(CONTENT)}"
            send_head(request, 206, ETag='"1"', Content_Range=span)
            request.wfile.write(CONTENT[300_000:400_000])
        else:
            send_from(request, CONTENT, etag='"1"')

    with service(reply) as it:
        assert fetch(it, tmp_path)[1] == CONTENT
    assert it.asked[2].headers["range"] == "bytes=400000-"


def test_a_part_that_was_not_asked_for_is_no_file(tmp_path):
    span = f"bytes 10-{len(CONTENT) - 1}/{len(CONTENT)}"
    with service(lambda request, _: send(request, CONTENT[10:], status=206, Content_Range=span)) as it:
        assert "changed" in refusal(it, tmp_path)


@pytest.mark.parametrize("etag", ["", 'W/"1"'])
def test_without_a_strong_etag_nothing_is_resumed(tmp_path, etag):
    def reply(request, it):
        if len(it.asked) == 1:
            cut_off(request, CONTENT, 300_000, etag=etag)
        else:
            send(request, OTHER)

    with service(reply) as it:
        assert fetch(it, tmp_path)[1] == OTHER
    assert "range" not in it.asked[1].headers


def test_a_range_that_cannot_be_had_begins_again(tmp_path):
    def reply(request, it):
        if len(it.asked) == 1:
            cut_off(request, CONTENT, 300_000)
        elif len(it.asked) == 2:
            send(request, status=416)
        else:
            send(request, CONTENT)

    with service(reply) as it:
        assert fetch(it, tmp_path)[1] == CONTENT


def test_a_web_page_is_no_lora(tmp_path):
    """C37."""
    with service(lambda request, _: send(request, b"<html>log in", Content_Type="text/html; charset=utf-8")) as it:
        assert "sent a web page" in refusal(it, tmp_path)
    assert len(it.asked) == 1


def test_a_file_sent_compressed_is_refused(tmp_path):
    """So that a length is a length."""
    bomb = gzip.compress(bytes(10_000_000))
    with service(lambda request, _: send(request, bomb, Content_Encoding="gzip")) as it:
        assert "compressed" in refusal(it, tmp_path)


def test_a_digest_that_the_source_gives_is_checked(tmp_path):
    """C38."""
    with service(lambda request, _: send(request, CONTENT)) as it:
        assert fetch(it, tmp_path, sha256=SHA256)[1] == CONTENT
        assert "sha256" in refusal(it, tmp_path, sha256="0" * 64)


def test_a_file_that_did_not_change_is_not_sent_again(tmp_path):
    """C43."""
    with service(lambda request, _: send_from(request, CONTENT, etag='"1"')) as it:
        assert fetch(it, tmp_path, known='"1"') == (None, b"")
        found, content = fetch(it, tmp_path, known='"0"')
    assert content == CONTENT
    assert found.etag == '"1"'


def test_a_server_that_sends_the_known_version_all_the_same_is_not_listened_to(tmp_path):
    def reply(request, _):
        send_head(request, 200, Content_Length=str(len(CONTENT)), ETag='"1"')
        request.wfile.write(CONTENT[:1000])

    with service(reply) as it:
        assert fetch(it, tmp_path, known='"1"') == (None, b"")
    assert len(it.asked) == 1


def test_unchanged_is_no_answer_to_who_asks_for_the_first_time(tmp_path):
    with service(lambda request, _: send_head(request, 304)) as it:
        assert "304" in refusal(it, tmp_path)


def test_a_drip_is_left(tmp_path):
    def reply(request, _):
        send_head(request, 200, Content_Length="1000000")
        for _ in range(100):
            request.wfile.write(b"x")
            time.sleep(0.05)

    begun = time.monotonic()
    with service(reply) as it:
        assert "too slowly" in refusal(it, tmp_path)
    assert time.monotonic() - begun < 3


def test_the_frame_of_a_body_may_not_drip(tmp_path):
    """A line that says how long the next piece is, and never ends; each byte alone comes in time."""

    def drip(request, _):
        request.protocol_version = "HTTP/1.1"
        send_head(request, 200, Transfer_Encoding="chunked")
        for _ in range(200):
            request.wfile.write(b"f")
            time.sleep(0.1)

    with service(drip) as it:
        begun = time.monotonic()
        assert "too slow" in refusal(it, tmp_path, patience=replace(SHORT_TIMEOUTS, whole=1))
    assert time.monotonic() - begun < 5


def test_all_attempts_together_have_an_end(tmp_path):
    """Fast enough by the second, and without end."""

    def reply(request, _):
        send_head(request, 200)
        while True:
            request.wfile.write(CONTENT[:10_000])
            time.sleep(0.02)

    begun = time.monotonic()
    with service(reply) as it:
        assert "too slow" in refusal(it, tmp_path, patience=replace(SHORT_TIMEOUTS, whole=0.8))
    assert time.monotonic() - begun < 4


def test_room_is_made_before_a_byte_is_written(tmp_path):
    """C41."""
    sizes = []

    def no_room(size):
        sizes.append(size)
        raise OSError("no room")

    with service(lambda request, _: send(request, CONTENT)) as it, pytest.raises(OSError, match="no room"):
        download(Wanted(Question(it.url)), tmp_path / "file", no_room, a_network(it))
    assert sizes == [len(CONTENT)]
    assert (tmp_path / "file").read_bytes() == b""


def test_room_is_made_for_every_further_block_of_a_file_whose_length_nobody_says(tmp_path, monkeypatch):
    """C41: else a cache outgrows its limit and the disk its reserve."""
    monkeypatch.setattr(room, "BLOCK", 300_000)
    monkeypatch.setattr(room, "PIECE", 50_000)
    sizes = []

    def no_room_for_a_third(size):
        sizes.append(size)
        if len(sizes) > 2:
            raise OSError("no room")

    def reply(request, _):
        send_head(request, 200)
        request.wfile.write(CONTENT)

    with service(reply) as it, pytest.raises(OSError, match="no room"):
        download(Wanted(Question(it.url)), tmp_path / "file", no_room_for_a_third, a_network(it))
    assert sizes == [300_000] * 3
    assert (tmp_path / "file").stat().st_size <= 600_000
