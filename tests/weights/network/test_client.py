"""HTTP requests: every redirect is checked, and a token is sent to its own origin only; C26, C28."""

import ctypes
import socket
import threading
import time
from dataclasses import replace

import pytest

from tests.services import SHORT_TIMEOUTS, a_network, redirect, send, send_head, service, silent_port, tls_context
from weights.network.client import HttpRequest, send_request
from weights.network.failures import TransientFailure
from weights.network.network import Network


def body(request, network):
    with send_request(request, network, attempt=0) as response:
        return response.status, response.read(1000)


def refusal(request, network):
    with pytest.raises(ValueError) as error:
        body(request, network)
    return str(error.value)


def test_a_response_has_its_status_and_the_request_accepts_no_compression():
    with service(lambda request, _: send(request, b"hello", status=404)) as server:
        assert body(HttpRequest(f"{server.url}/a?b=%2F"), a_network(server)) == (404, b"hello")
    assert server.paths() == ["/a?b=%2F"]
    assert server.requests[0].headers["accept-encoding"] == "identity"
    assert server.requests[0].headers["host"] == server.url.removeprefix("http://")
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(status):
    def reply(request, _):
        if request.path == "/a":
            redirect(request, "b?c=d", status=status)
        else:
            send(request, b"there")

    with service(reply) as server:
        assert body(HttpRequest(f"{server.url}/a"), a_network(server)) == (200, b"there")
    assert server.paths() == ["/a", "/b?c=d"]


def test_five_redirects_are_followed_and_a_sixth_is_not():
    def reply(request, _):
        left = int(request.path[1:])
        if left:
            redirect(request, f"/{left - 1}")
        else:
            send(request, b"there")

    with service(reply) as server:
        assert body(HttpRequest(f"{server.url}/5"), a_network(server)) == (200, b"there")
        assert "more than 5 times" in refusal(HttpRequest(f"{server.url}/6"), a_network(server))


def test_a_loop_of_redirects_ends():
    with service(lambda request, _: redirect(request, request.path)) as server:
        assert "more than 5 times" in refusal(HttpRequest(f"{server.url}/a"), a_network(server))
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/x",
        "https://[::1]/x",
        "http://h.example/x",
        "file:///etc/passwd",
        "https://u:p@h.example/x",
        "gopher://h.example/x",
        "//127.0.0.1/x",
    ],
)
def test_a_redirect_to_an_internal_or_invalid_url_is_refused(target):
    with service(lambda request, _: redirect(request, target)) as server:
        message = refusal(HttpRequest(f"{server.url}/a"), a_network(server))
    assert "not allowed" in message or "expected https" in message
    assert len(server.requests) == 1


def test_a_redirect_to_another_server_on_this_machine_is_refused():
    with (
        service(lambda request, _: send(request, b"inner")) as inner,
        service(lambda request, _: redirect(request, inner.url)) as server,
    ):
        refusal(HttpRequest(server.url), a_network(server))
    assert inner.requests == []


@pytest.mark.parametrize("target", ["http://[::1", "//[x]/y", "https://h\u2100.example/"])
def test_a_redirect_to_an_unreadable_url_is_refused_with_our_own_message(target):
    with service(lambda request, _: redirect(request, target.encode().decode("latin-1"))) as server:
        message = refusal(HttpRequest(f"{server.url}/a"), a_network(server))
    assert "expected https://host/path" in message or "expected one in ASCII letters" in message


def test_a_token_is_dropped_permanently_after_a_redirect_to_another_origin():
    def redirect_back(request, _):
        if request.path == "/back":
            send(request, b"there")
        else:
            redirect(request, f"{home.url}/back")

    with service(redirect_back) as other:

        def reply(request, _):
            if request.path == "/back":
                send(request, b"there")
            else:
                redirect(request, f"{other.url}/away")

        with service(reply) as home:
            body(HttpRequest(f"{home.url}/a", token="s3cret"), a_network(home, other))
    assert [request.headers.get("authorization") for request in home.requests] == ["Bearer s3cret", None]
    assert "authorization" not in other.requests[0].headers
    assert all("s3cret" not in path for path in home.paths() + other.paths())


def test_the_repr_of_a_request_contains_neither_its_url_nor_its_token():
    assert "s3cret" not in repr(HttpRequest("https://h.example/?sig=s3cret", token="s3cret"))


@pytest.mark.parametrize("token", ["s3cret\nX: y", "s3cret é", "s3 cret", "s3cret\0"])
def test_an_invalid_token_is_refused_and_not_repeated(token):
    with service(lambda request, _: send(request)) as server:
        assert "s3" not in refusal(HttpRequest(server.url, token=token), a_network(server))
    assert server.requests == []


def test_an_unreachable_server_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(TransientFailure, match=r"127\.0\.0\.1, which cannot be reached") as error:
        body(HttpRequest(url), a_network(url))
    assert error.value.max_retries == 1


def test_a_server_that_never_responds_is_given_up():
    with silent_port() as url:
        started = time.monotonic()
        with pytest.raises(TransientFailure, match=r"no response from 127\.0\.0\.1"):
            body(HttpRequest(url), a_network(url))
    assert time.monotonic() - started < 3


def test_headers_that_arrive_byte_by_byte_are_given_up():
    """Each byte arrives within the read timeout."""

    def drip(request, _):
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40:
            request.wfile.write(bytes([byte]))
            time.sleep(0.1)

    with service(drip) as server:
        started = time.monotonic()
        with pytest.raises(TransientFailure, match="no response"):
            body(HttpRequest(server.url), a_network(server))
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("silent_before", ["head", "body"])
def test_the_read_timeout_may_be_longer_than_the_connect_timeout(silent_before):
    def reply(request, _):
        if silent_before == "head":
            time.sleep(0.5)
        send_head(request, 200, Content_Length="5")
        request.wfile.flush()
        if silent_before == "body":
            time.sleep(0.5)
        request.wfile.write(b"hello")

    with service(reply) as server:
        network = a_network(server, timeouts=replace(SHORT_TIMEOUTS, connect=0.2, read=2))
        assert body(HttpRequest(server.url), network) == (200, b"hello")


def test_a_server_that_stops_in_the_middle_of_a_body_is_given_up():
    def reply(request, _):
        send_head(request, 200, Content_Length="10")
        request.wfile.write(b"hello")
        request.wfile.flush()
        time.sleep(1)

    with service(reply) as server, send_request(HttpRequest(server.url), a_network(server), attempt=0) as response:
        assert response.read(10) == b"hello"
        started = time.monotonic()
        with pytest.raises(TransientFailure, match="cut off"):
            response.read(10)
        assert 0.4 < time.monotonic() - started < 0.9


class Cancelled(BaseException):
    """Like Cog's cancellation, which is raised in the thread of a job."""


def test_a_job_can_be_cancelled_while_it_waits_for_a_server():
    ended = []

    def job(network):
        try:
            body(HttpRequest(*network.trusted), network)
        except Cancelled:
            ended.append(time.monotonic())

    with silent_port() as url:
        thread = threading.Thread(target=job, args=(a_network(url, timeouts=replace(SHORT_TIMEOUTS, read=4)),))
        thread.start()
        time.sleep(0.1)
        cancelled = time.monotonic()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Cancelled))
        thread.join()
    assert ended[0] - cancelled < 1


def test_a_response_that_is_not_http_is_a_transient_failure():
    with (
        service(lambda request, _: request.wfile.write(b"SSH-2.0-OpenSSH\r\n")) as server,
        pytest.raises(TransientFailure, match="no response"),
    ):
        body(HttpRequest(server.url), a_network(server))


def test_a_body_cut_off_by_a_closed_connection_is_a_transient_failure():
    """A chunked body without its last chunk is incomplete."""

    def reply(request, _):
        request.protocol_version = "HTTP/1.1"
        send_head(request, 200, Transfer_Encoding="chunked")
        request.wfile.write(b"10\r\nhello")
        request.close_connection = True

    with service(reply) as server, send_request(HttpRequest(server.url), a_network(server), attempt=0) as response:
        assert response.read(5) == b"hello"
        with pytest.raises(TransientFailure, match="cut off"):
            response.read(5)


def test_each_attempt_uses_the_next_address():
    with service(lambda request, _: send(request, b"here")) as server:
        network = a_network(server, resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"])
        with send_request(HttpRequest(server.url), network, attempt=1) as response:
            assert response.read(10) == b"here"


@pytest.fixture
def tls_service(tmp_path, monkeypatch):
    """The port of a TLS server with a trusted certificate for lora.test only, and the names that clients requested."""
    context = tls_context(tmp_path, "DNS:lora.test", monkeypatch)
    names = []
    context.sni_callback = lambda connected, name, _: names.append(name)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve_tls, args=(listener, context), daemon=True).start()
        yield listener.getsockname()[1], names


def serve_tls(listener, context):
    while True:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        try:
            with context.wrap_socket(accepted, server_side=True) as connected:
                connected.recv(10_000)
                connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        except OSError:
            continue


def tls_network(host, port):
    return Network(
        trusted=frozenset({f"https://{host}:{port}"}), resolve=lambda host, port: ["127.0.0.1"], timeouts=SHORT_TIMEOUTS
    )


def test_the_certificate_is_verified_against_the_host_name_and_not_the_address(tls_service):
    port, names = tls_service
    assert body(HttpRequest(f"https://lora.test:{port}/"), tls_network("lora.test", port)) == (200, b"hello")
    assert names == ["lora.test"]


def test_the_certificate_of_another_name_is_refused(tls_service):
    port, _ = tls_service
    message = refusal(HttpRequest(f"https://evil.test:{port}/"), tls_network("evil.test", port))
    assert "evil.test, whose certificate is not" in message


def test_proxies_in_the_environment_are_not_used(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with service(lambda request, _: send(request, b"here")) as server:
        assert body(HttpRequest(server.url), a_network(server)) == (200, b"here")


def test_a_host_is_resolved_once_so_that_its_address_cannot_change_after_the_check():
    resolved = []

    def rebinding(host, _):
        resolved.append(host)
        return ["127.0.0.1"] if len(resolved) == 1 else ["127.0.0.9"]

    with service(lambda request, _: send(request, b"here")) as server:
        port = server.url.rsplit(":", 1)[1]
        network = replace(a_network(f"http://h.test:{port}"), resolve=rebinding)
        assert body(HttpRequest(f"http://h.test:{port}/"), network) == (200, b"here")
    assert resolved == ["h.test"]
