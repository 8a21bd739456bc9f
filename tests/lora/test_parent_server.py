"""A worker notices the end of its server. tests/test_serve.py shows that a server ends with its worker."""

import os
import socket

import psutil
import pytest

from lora.parent_server import ParentServer


@pytest.fixture(autouse=True)
def listener(monkeypatch):
    """A socket on which this process listens, which is made its own parent."""
    monkeypatch.setattr(os, "getppid", os.getpid)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_a_server_that_closes_its_listener_is_shutting_down_although_its_connections_stay(listener):
    server = ParentServer()
    with socket.create_connection(listener.getsockname()), listener.accept()[0]:
        assert not server.is_shutting_down()
        listener.close()
        assert server.is_shutting_down()


def test_another_listener_is_not_taken_for_the_one_that_was_closed(listener):
    """Such as that of the next server on the same port, or one that got the same descriptor."""
    server = ParentServer()
    assert not server.is_shutting_down()
    address, descriptor = listener.getsockname(), listener.fileno()
    listener.close()
    with socket.create_server(address) as other:
        assert other.fileno() == descriptor
        assert server.is_shutting_down()


def test_a_server_that_closed_its_listener_before_the_job_began_is_shutting_down(listener):
    server = ParentServer()
    listener.close()
    assert server.is_shutting_down()


def test_a_server_that_is_gone_is_shutting_down(monkeypatch):
    server = ParentServer()
    assert not server.is_shutting_down()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert server.is_shutting_down()


def test_a_server_that_cannot_be_inspected_counts_as_running(listener, monkeypatch):
    def denied(*_):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "net_connections", denied)
    listener.close()
    assert not ParentServer().is_shutting_down()
