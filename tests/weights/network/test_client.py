"""A question and its answer: redirects are checked one by one, and tokens go nowhere else; C26, C28."""

import ctypes
import shutil
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from tests.services import SHORT_TIMEOUTS, a_network, redirect, send, send_head, service, silent_port
from weights.network.client import Question, ask
from weights.network.failures import TransientFailure
from weights.network.network import Network


def body(question, network):
    with ask(question, network, attempt=0) as answer:
        return answer.status, answer.piece(1000)


def refusal(question, network):
    with pytest.raises(ValueError) as error:
        body(question, network)
    return str(error.value)


def test_an_answer_comes_with_its_status_and_asks_for_no_compression():
    with service(lambda request, _: send(request, b"hello", status=404)) as it:
        assert body(Question(f"{it.url}/a?b=%2F"), a_network(it)) == (404, b"hello")
    assert it.paths() == ["/a?b=%2F"]
    assert it.asked[0].headers["accept-encoding"] == "identity"
    assert it.asked[0].headers["host"] == it.url.removeprefix("http://")
    assert "authorization" not in it.asked[0].headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(status):
    def reply(request, _):
        if request.path == "/a":
            redirect(request, "b?c=d", status=status)
        else:
            send(request, b"there")

    with service(reply) as it:
        assert body(Question(f"{it.url}/a"), a_network(it)) == (200, b"there")
    assert it.paths() == ["/a", "/b?c=d"]


def test_five_redirects_are_followed_and_a_sixth_is_not():
    def reply(request, _):
        left = int(request.path[1:])
        if left:
            redirect(request, f"/{left - 1}")
        else:
            send(request, b"there")

    with service(reply) as it:
        assert body(Question(f"{it.url}/5"), a_network(it)) == (200, b"there")
        assert "more than 5 times" in refusal(Question(f"{it.url}/6"), a_network(it))


def test_a_loop_of_redirects_ends():
    with service(lambda request, _: redirect(request, request.path)) as it:
        assert "more than 5 times" in refusal(Question(f"{it.url}/a"), a_network(it))
    assert len(it.asked) == 6


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
def test_a_redirect_to_where_nobody_may_be_asked_is_refused(target):
    with service(lambda request, _: redirect(request, target)) as it:
        message = refusal(Question(f"{it.url}/a"), a_network(it))
    assert "not allowed" in message or "expected https" in message
    assert len(it.asked) == 1


def test_a_redirect_to_another_server_of_this_machine_is_refused():
    with (
        service(lambda request, _: send(request, b"inner")) as inner,
        service(lambda request, _: redirect(request, inner.url)) as it,
    ):
        refusal(Question(it.url), a_network(it))
    assert inner.asked == []


@pytest.mark.parametrize("target", ["http://[::1", "//[x]/y", "https://h\u2100.example/"])
def test_a_redirect_to_what_is_no_url_is_refused_in_a_sentence_of_ours(target):
    with service(lambda request, _: redirect(request, target.encode().decode("latin-1"))) as it:
        message = refusal(Question(f"{it.url}/a"), a_network(it))
    assert "expected https://host/path" in message or "expected one in ASCII letters" in message


def test_a_token_is_dropped_for_good_at_another_origin():
    def come_back(request, _):
        if request.path == "/back":
            send(request, b"there")
        else:
            redirect(request, f"{home.url}/back")

    with service(come_back) as other:

        def reply(request, _):
            if request.path == "/back":
                send(request, b"there")
            else:
                redirect(request, f"{other.url}/away")

        with service(reply) as home:
            body(Question(f"{home.url}/a", token="s3cret"), a_network(home, other))
    assert [asked.headers.get("authorization") for asked in home.asked] == ["Bearer s3cret", None]
    assert "authorization" not in other.asked[0].headers
    assert all("s3cret" not in path for path in home.paths() + other.paths())


def test_a_question_shows_neither_its_url_nor_its_token():
    assert "s3cret" not in repr(Question("https://h.example/?sig=s3cret", token="s3cret"))


@pytest.mark.parametrize("token", ["s3cret\nX: y", "s3cret é", "s3 cret", "s3cret\0"])
def test_a_token_that_is_none_is_refused_and_not_repeated(token):
    with service(lambda request, _: send(request)) as it:
        assert "s3" not in refusal(Question(it.url, token=token), a_network(it))
    assert it.asked == []


def test_a_server_that_nobody_runs_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(TransientFailure, match=r"127\.0\.0\.1, which cannot be reached") as error:
        body(Question(url), a_network(url))
    assert error.value.most == 1


def test_a_server_that_never_answers_is_left():
    with silent_port() as url:
        begun = time.monotonic()
        with pytest.raises(TransientFailure, match=r"no answer from 127\.0\.0\.1"):
            body(Question(url), a_network(url))
    assert time.monotonic() - begun < 3


def test_the_head_of_an_answer_may_not_drip():
    """Each byte alone comes in time."""

    def drip(request, _):
        for sign in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40:
            request.wfile.write(bytes([sign]))
            time.sleep(0.1)

    with service(drip) as it:
        begun = time.monotonic()
        with pytest.raises(TransientFailure, match="no answer"):
            body(Question(it.url), a_network(it))
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize("silent_before", ["head", "body"])
def test_a_server_may_be_silent_for_longer_than_connecting_may_take(silent_before):
    def reply(request, _):
        if silent_before == "head":
            time.sleep(0.5)
        send_head(request, 200, Content_Length="5")
        request.wfile.flush()
        if silent_before == "body":
            time.sleep(0.5)
        request.wfile.write(b"hello")

    with service(reply) as it:
        network = a_network(it, patience=replace(SHORT_TIMEOUTS, connecting=0.2, silence=2))
        assert body(Question(it.url), network) == (200, b"hello")


def test_a_silent_server_is_left_in_the_middle_of_a_body():
    def reply(request, _):
        send_head(request, 200, Content_Length="10")
        request.wfile.write(b"hello")
        request.wfile.flush()
        time.sleep(1)

    with service(reply) as it, ask(Question(it.url), a_network(it), attempt=0) as answer:
        assert answer.piece(10) == b"hello"
        begun = time.monotonic()
        with pytest.raises(TransientFailure, match="cut off"):
            answer.piece(10)
        assert 0.4 < time.monotonic() - begun < 0.9


class Cancelled(BaseException):
    """As Cog's cancellation, which it throws into the thread of a job."""


def test_a_job_can_be_ended_while_a_server_is_silent():
    ended = []

    def job(network):
        try:
            body(Question(*network.trusted), network)
        except Cancelled:
            ended.append(time.monotonic())

    with silent_port() as url:
        thread = threading.Thread(target=job, args=(a_network(url, patience=replace(SHORT_TIMEOUTS, silence=4)),))
        thread.start()
        time.sleep(0.1)
        cancelled = time.monotonic()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Cancelled))
        thread.join()
    assert ended[0] - cancelled < 1


def test_what_is_no_http_is_no_answer():
    with (
        service(lambda request, _: request.wfile.write(b"SSH-2.0-OpenSSH\r\n")) as it,
        pytest.raises(TransientFailure, match="no answer"),
    ):
        body(Question(it.url), a_network(it))


def test_a_body_cut_off_by_a_closed_connection_is_told():
    """In chunks, an end that was not told is no end."""

    def reply(request, _):
        request.protocol_version = "HTTP/1.1"
        send_head(request, 200, Transfer_Encoding="chunked")
        request.wfile.write(b"10\r\nhello")
        request.close_connection = True

    with service(reply) as it, ask(Question(it.url), a_network(it), attempt=0) as answer:
        assert answer.piece(5) == b"hello"
        with pytest.raises(TransientFailure, match="cut off"):
            answer.piece(5)


def test_each_attempt_takes_the_next_address():
    with service(lambda request, _: send(request, b"here")) as it:
        network = a_network(it, resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"])
        with ask(Question(it.url), network, attempt=1) as answer:
            assert answer.piece(10) == b"here"


@pytest.fixture
def tls_service(tmp_path, monkeypatch):
    """A server with a certificate for lora.test alone, which this process trusts, and the name that it was asked by."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    name = ["-subj", "/CN=lora.test", "-addext", "subjectAltName=DNS:lora.test"]
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key)]
    subprocess.run([*made, "-out", str(certificate), *name], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
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
        trusted=frozenset({f"https://{host}:{port}"}), resolve=lambda host, port: ["127.0.0.1"], patience=SHORT_TIMEOUTS
    )


def test_the_certificate_is_that_of_the_name_though_the_address_is_asked(tls_service):
    port, names = tls_service
    assert body(Question(f"https://lora.test:{port}/"), tls_network("lora.test", port)) == (200, b"hello")
    assert names == ["lora.test"]


def test_the_certificate_of_another_name_is_refused(tls_service):
    port, _ = tls_service
    message = refusal(Question(f"https://evil.test:{port}/"), tls_network("evil.test", port))
    assert "evil.test, whose certificate is not" in message


def test_proxies_of_the_environment_are_not_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with service(lambda request, _: send(request, b"here")) as it:
        assert body(Question(it.url), a_network(it)) == (200, b"here")


def test_a_name_is_looked_up_once_so_that_it_cannot_change_after_the_check():
    asked = []

    def rebinding(host, _):
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.9"]

    with service(lambda request, _: send(request, b"here")) as it:
        port = it.url.rsplit(":", 1)[1]
        network = replace(a_network(f"http://h.test:{port}"), resolve=rebinding)
        assert body(Question(f"http://h.test:{port}/"), network) == (200, b"here")
    assert asked == ["h.test"]
