"""Listening sockets: one port on every address, nothing left open after a failure."""

import socket

import pytest

from secguard.core import SystemPartError
from secguard.core.listening import listen


def test_port_0_takes_one_free_port_for_all_addresses() -> None:
    found = listen("localhost", 0, "test")
    try:
        assert len({one.getsockname()[1] for one in found}) == 1
        for one in found:
            with socket.create_connection(one.getsockname()[:2], 5):
                pass
    finally:
        for one in found:
            one.close()


def test_a_taken_port_is_named_with_what_it_was_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemPartError) as caught:
        listen("127.0.0.1", taken.getsockname()[1], "status")
    assert caught.value.code == "service.listen"
    assert caught.value.where == "status"


def test_a_datagram_socket_keeps_what_is_asked() -> None:
    (one,) = listen("127.0.0.1", 0, "syslog", socket.SOCK_DGRAM, buffer=100_000)
    with one:
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 100_000
