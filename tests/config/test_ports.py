"""Ports that are still free when a program comes to listen on them."""

from __future__ import annotations

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from config.ports import free_ports


def test_no_connection_takes_them_before_a_program_does() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = [socket.create_connection(server.getsockname()) for _ in range(50)]
        taken = {connection.getsockname()[1] for connection in connections}
        for connection in connections:
            connection.close()
    assert max(ports) < min(taken)
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_one_that_is_listened_on_is_left_out() -> None:
    with contextlib.ExitStack() as stack:
        (last,) = free_ports(1)
        for port in range(last + 1, last + 20):
            with contextlib.suppress(OSError):  # another program has it: as good
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        (found,) = free_ports(1)
        assert not last < found < last + 20


def test_threads_may_ask_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(chain.from_iterable(pool.map(free_ports, [20] * 40)))
    assert len(set(found)) == len(found)
