from __future__ import annotations

import socket

import pytest

from pyrtmp.aio.sockets import MAX_KERNEL_UNSENT, acknowledge_at_once, bound_unsent, set_keepalive, tcp_info


def test_a_socket_that_is_not_read_refuses_early() -> None:
    taken = {}
    for bounded in (False, True):
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(
            listener.getsockname()
        ) as reader:
            sender, _ = listener.accept()
            with sender:
                reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                if bounded:
                    bound_unsent(sender)
                sender.setblocking(False)
                taken[bounded] = 0
                with pytest.raises(BlockingIOError):
                    for _ in range(10_000):
                        taken[bounded] += sender.send(bytes(65536))
    assert taken[True] < taken[False]
    assert taken[True] < 3 * MAX_KERNEL_UNSENT


def test_options_reach_the_kernel() -> None:
    with socket.socket() as sock:
        set_keepalive(sock, 10.0)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
        acknowledge_at_once(sock)


def test_other_sockets_are_left_alone() -> None:
    one, other = socket.socketpair()
    with one, other:
        for sock in (one, None):
            set_keepalive(sock, 10.0)
            acknowledge_at_once(sock)
            bound_unsent(sock)
        assert not one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert tcp_info(one) is None
