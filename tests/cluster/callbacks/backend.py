"""A back end on a real HTTP server: it remembers what it is asked, and answers however a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from cluster.config import Config, load
from cluster.node import Node
from pyrtmp.aio.client import Client
from pyrtmp.message import Message
from tests.cluster.conftest import HERE

TOKEN = "token-of-the-back-end"
KEY_FRAME = Message(9, 0, 1, b"\x17\x01" + bytes(3) + b"a picture")

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        assert self.headers["Content-Type"] == "application/json"
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found

    @property
    def form(self) -> list[tuple[str, str]]:
        assert self.headers["Content-Type"] == "application/x-www-form-urlencoded"
        return parse_qsl(self.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)


@dataclass
class BackEnd:
    """``answers`` are given by what a request's body has in it, the first that fits; "" fits every one."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.method == "POST"
        body = await request.read()
        async with self._came:
            self.asked.append(Asked(request.raw_path, dict(request.headers), body))
            self._came.notify_all()
        for part, answer in self.answers.items():
            if part in body.decode():
                return await answer(request)
        return web.Response(text="0")

    async def until(self, part: str, count: int = 1) -> list[Asked]:
        """The requests with ``part`` in their bodies, when there are so many."""
        async with asyncio.timeout(10), self._came:
            await self._came.wait_for(lambda: len(self.of(part)) >= count)
        return self.of(part)

    def of(self, part: str) -> list[Asked]:
        return [each for each in self.asked if part in each.body.decode()]


def status(number: int, text: str = "", **headers: str) -> Answer:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=number, text=text, headers=headers)

    return answer


async def hang(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"0" * 65536)


async def cut(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@asynccontextmanager
async def back_end() -> AsyncIterator[BackEnd]:
    found = BackEnd()
    server = web.Server(found.answer, handler_cancellation=True)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/hook?a=%2F&token={TOKEN}"
    try:
        yield found
    finally:
        listener.close()
        await server.shutdown(0.1)


def config(url: str, dialect: str, *more: str) -> Config:
    return load(None, [*HERE, f"callbacks.url={url}", f"callbacks.dialect={dialect}", "node.id=node-1", *more], {})


@asynccontextmanager
async def publishing(node: Node, stream: str = "live/cam", **parameters: Any) -> AsyncIterator[Client]:
    async with await Client.connect(f"rtmp://{node.rtmp_address}/{stream}", **parameters) as client:
        await client.publish()
        await client.send(KEY_FRAME)
        yield client


async def played(node: Node, stream: str = "live/cam", **parameters: Any) -> None:
    """Play until the first picture.  Raises ``RefusedError``."""
    async with asyncio.timeout(10):
        async with await Client.connect(f"rtmp://{node.rtmp_address}/{stream}", **parameters) as client:
            async for message in client.play():
                if message.type == 9:
                    return
