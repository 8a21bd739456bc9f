"""The servers of the tests do not outlive them."""

import threading

import pytest

from tests.loopback import QuietHandler, http_server
from tests.servers import wait_until


def test_a_server_ends_with_an_error_in_its_block():
    """On a closed socket, its thread would take a whole core from all later tests."""
    before = {*threading.enumerate()}
    with pytest.raises(RuntimeError, match="in the midst"), http_server(QuietHandler):
        assert {*threading.enumerate()} > before
        raise RuntimeError("in the midst")
    wait_until(lambda: before >= {*threading.enumerate()}, seconds=5)
