from __future__ import annotations

import asyncio
import errno
import gc
import resource
import socket

import pytest

from cluster.config import Address
from cluster.opening import StartError, found, freeze_heap, open_listener, raise_descriptor_limit, run_loop


def test_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, hard), hard))
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EADDRINUSE, "in use"), "another program listens there already"),
        (OSError(errno.EADDRNOTAVAIL, "not here"), "this machine does not have that address"),
        (PermissionError(errno.EACCES, "no"), "this user may not open that port"),
        (socket.gaierror(socket.EAI_NONAME, "who?"), "the host name is not known"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (OSError("without a number"), "without a number"),
    ],
)
async def test_why_a_listener_does_not_open(error: OSError, reason: str) -> None:
    async def start(host: str, port: int) -> None:
        assert (host, port) == ("::1", 80)
        raise error

    with pytest.raises(StartError) as caught:
        await open_listener("http.listen", Address("::1", 80), start)
    assert str(caught.value).startswith("http.listen = [::1]:80 cannot be opened: ") and reason in str(caught.value)


def test_the_port_that_was_found() -> None:
    assert found([("127.0.0.1", 4567)], Address("localhost", 0)) == Address("localhost", 4567)
    assert found([], Address("localhost", 0)) == Address("localhost", 0)


def test_the_loop_is_uvloop() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())

    run_loop(main())
    assert [type(loop).__module__ for loop in loops] == ["uvloop"]
    assert loops[0].is_closed()


def test_the_heap_is_frozen() -> None:
    before = gc.get_freeze_count()
    more = [[number] for number in range(1000)]
    freeze_heap()
    assert gc.get_freeze_count() >= before + len(more)
