"""URLs of this machine, its network or its cloud are refused; reference/reliability.md, C29 and C31."""

import socket

import pytest

from weights.network.failures import TransientFailure
from weights.network.network import Network, resolve
from weights.network.url_policy import check_url, is_public, origin_of


def network(*addresses, **changes):
    return Network(resolve=lambda host, port: addresses, **changes)


def refusal(url, network):
    with pytest.raises(ValueError) as error:
        check_url(url, network)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_public_host_is_accepted_with_its_checked_addresses():
    checked = check_url("https://h.example/a b.safetensors?X=%2F&y=ü#part", network("8.8.8.8", "2001:4860:4860::8888"))
    assert (checked.scheme, checked.host, checked.port) == ("https", "h.example", 443)
    assert checked.addresses == ("8.8.8.8", "2001:4860:4860::8888")
    assert checked.target == "/a%20b.safetensors?X=%2F&y=%C3%BC"


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[::1]",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "localhost",
        "LOCALHOST.",
        "①②⑦.⓪.⓪.①",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[::127.0.0.1]",
        "metadata.google.internal",
        "printer.local",
        "100.64.0.1",
        "10.0.0.1",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "224.0.0.1",
        "0.0.0.0",
    ],
)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_an_internal_host_is_refused_however_it_is_written(host, scheme):
    """C29, with the real resolver, which accepts all these notations of an address."""
    message = refusal(f"{scheme}://{host}/x.safetensors", Network())
    assert "not allowed" in message or (scheme == "http" and "expected https" in message)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",
        "::7f00:1",
        "2001:0:7f00:1::1",
        "100.64.0.1",
        "192.168.1.1",
        "239.1.2.3",
        "240.0.0.1",
        "168.63.129.16",
        "::ffff:168.63.129.16",
        "192.0.0.8",
        "192.0.0.192",
        "::ffff:192.0.0.192",
        "192.88.99.1",
        "3fff::1",
        "fec0::1",
        "5f00::1",
        "ff0e::1",
        "fe80::1%eth0",
        "no address",
    ],
)
def test_an_address_that_is_not_public_is_recognised(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_is_recognised(address):
    assert is_public(address)


def test_a_host_with_one_private_address_among_public_ones_is_refused():
    """C31."""
    assert "not allowed" in refusal("https://h.example/x", network("8.8.8.8", "10.0.0.1"))


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://h.example/x", "expected https"),
        ("https://h.example:8443/x", "port 8443"),
        ("https://u:p@h.example/x", "with a user"),
        ("file:///etc/passwd", "another scheme"),
        ("https://h.example:99999/x", "invalid URL"),
        ("https:///x", "without a host"),
    ],
)
def test_a_url_of_another_kind_is_refused(url, found):
    assert found in refusal(url, network("8.8.8.8"))


def test_the_error_for_an_unknown_host_names_it():
    """C26."""

    def no_such_name(*_):
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    assert "h.example, which does not exist" in refusal("https://h.example/x", Network(resolve=no_such_name))


def test_a_host_that_cannot_be_resolved_at_the_moment_is_a_transient_failure():
    def not_now(*_):
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    with pytest.raises(TransientFailure, match=r"h\.example"):
        check_url("https://h.example/x", Network(resolve=not_now))


def test_a_host_name_that_is_too_long_is_refused():
    assert "not a valid host name" in refusal(f"https://{'a' * 70}.example/x", Network())


def test_a_trusted_origin_is_accepted_but_no_other_port_or_scheme_of_its_host():
    trusting = network("127.0.0.1", trusted=frozenset({"http://127.0.0.1:8000"}))
    assert check_url("http://127.0.0.1:8000/x", trusting).addresses == ("127.0.0.1",)
    refusal("http://127.0.0.1:8001/x", trusting)
    refusal("https://127.0.0.1:8000/x", trusting)


def test_no_origin_is_trusted_by_default():
    assert Network().trusted == frozenset()


def test_an_origin_always_has_its_port():
    assert origin_of("HTTPS://H.example./x") == "https://h.example:443"


def test_the_real_resolver_returns_every_address_once_and_ipv4_first():
    assert resolve("127.0.0.1", 443) == ["127.0.0.1"]
    found = resolve("localhost", 443)
    assert len(found) == len(set(found))
    assert ":" not in found[0] or all(":" in address for address in found)
