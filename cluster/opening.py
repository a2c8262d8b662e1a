"""What every process of a node does while it starts: its event loop, its descriptors, its listening sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import resource
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from cluster.config import Address

_YOUNG_OBJECTS: Final = 10_000
"""So many new objects are looked through for cycles at once.  Kept messages are such objects and never part of a cycle;
with Python's 700 that was 2 to 3 % of what reading them takes."""


class StartError(Exception):
    """The node cannot start; ``str()`` is a sentence for people."""


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` in an event loop of this process."""
    try:
        import uvloop
    except ImportError:  # Windows
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def raise_descriptor_limit() -> None:
    """Let this process open as many files as it may: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def open_listener(setting: str, address: Address, start: Callable[[str, int], Awaitable[None]]) -> None:
    """``start`` listening on the ``address`` that ``setting`` names.  Raises ``StartError``."""
    try:
        await start(address.host, address.port)
    except OSError as error:
        raise StartError(refusal(setting, address, error)) from None


def refusal(setting: str, address: Address, error: OSError) -> str:
    """Why ``address`` cannot be opened, as a sentence for people."""
    return f"{setting} = {address} cannot be opened: {_why(error)}"


def found(bound: list[tuple[str, int]], configured: Address) -> Address:
    """The ``configured`` address with the port that was found where it said 0."""
    return Address(configured.host, bound[0][1]) if bound else configured


def freeze_heap() -> None:
    """What is there now stays: the garbage collector need not look at it again, and at the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there already (perhaps another pyrtmp); set another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "this user may not open that port (ports below 1024 need a privilege)"
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    return error.strerror or str(error)
