"""``cluster.bandwidth``: what can be measured of a server, and what cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import pytest
from aiohttp import web

from cluster.bandwidth import FILE, SECONDS, measure
from cluster.node import Node

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def slow(request: web.BaseRequest) -> web.StreamResponse:
    """100 kB in a second."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(5000))
        await asyncio.sleep(0.05)


async def hang(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": str(request.url)})


async def asked(answer: Answer) -> tuple[float | None, float]:
    """What is measured of a server that answers so, and in how many seconds."""
    server = web.Server(answer, handler_cancellation=True)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    since = monotonic()
    try:
        return await measure(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"), monotonic() - since
    finally:
        listener.close()
        await server.shutdown(0.1)


async def test_a_node(node: Node) -> None:
    bits = await measure(f"http://{node.http_address}")
    assert bits is not None and bits > 20e6
    assert any(name == FILE.rpartition("/")[2] for name in node.engine.site._page)


async def test_a_slow_line() -> None:
    bits, seconds = await asked(slow)
    assert bits is not None and 0.3e6 < bits < 1.2e6
    assert seconds < 4 * SECONDS


@pytest.mark.parametrize("answer", [hang, elsewhere])
async def test_what_cannot_be_measured(answer: Answer) -> None:
    bits, seconds = await asked(answer)
    assert bits is None and seconds < 4 * SECONDS


async def test_nobody_there() -> None:
    assert await measure("http://127.0.0.1:1") is None
