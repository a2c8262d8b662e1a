"""``cluster.forward.callback``: targets from a back end over HTTP, as SRS asks for them, and from one that fails."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from cluster.callbacks.events import AnswerError
from cluster.callbacks.posting import Poster
from cluster.forward import callback
from cluster.forward.callback import TargetCallback, ask, read_answer
from pyrtmp import Hooks, Request, Server, StreamSettings
from pyrtmp.hub import Hub
from pyrtmp.kinship import Kinship, admission
from pyrtmp.names import StreamKey
from tests.cluster.forward.conftest import Forwarding
from tests.cluster.forward.test_forward import at, live, port
from tests.pyrtmp.aio.net import Net, eventually, journal

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Asking = Callable[[str, Server], TargetCallback]

TOKEN = "secret-token"


class Backend:
    """Answers on_forward with ``urls``, or however ``answer`` does."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.urls: list[str] = []
        self.answer: Answer | None = None
        self._server = web.Server(self._answer)

    async def start(self) -> None:
        server = await asyncio.get_running_loop().create_server(self._server, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._listener = server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/forward?path=a%2Fb&token={TOKEN}"

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.method == "POST" and request.raw_path == f"/forward?path=a%2Fb&token={TOKEN}"
        self.asked.append(json.loads(await request.read()))
        if self.answer is not None:
            return await self.answer(request)
        return web.json_response({"code": 0, "data": {"urls": self.urls}})

    async def close(self) -> None:
        self._listener.close()
        await self._server.shutdown(0.1)


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    backend = Backend()
    await backend.start()
    yield backend
    await backend.close()


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    poster = Poster()
    yield lambda url, server: TargetCallback(url, node="master-1", poster=poster, journal=journal(server))
    await poster.close()


async def test_what_is_asked_and_where_the_stream_goes_then(
    net: Net, forward: Forwarding, backend: Backend, asking: Asking
) -> None:
    source, target = await net.server(), await net.server()
    backend.urls = [f"rtmp://127.0.0.1:{port(target)}/other/name?key=1"]
    forwarder = forward(source, extra_targets=asking(backend.url, source))
    await net.publisher(source, "cam?token=a%2Fb")
    await live(forwarder)
    (publisher,) = source.clients.values()
    assert backend.asked == [
        {
            "action": "on_forward", "server_id": "master-1", "client_id": publisher.id, "ip": "127.0.0.1",
            "vhost": "__defaultVhost__", "app": "live", "tcUrl": "rtmp://h/live", "stream": "cam",
            "param": "?token=a%2Fb",
        }
    ]
    assert [str(stream.key) for stream in target.hub.live()] == ["other/name"]


async def test_a_target_that_a_back_end_names_is_not_told_what_is_allowed_here(
    net: Net, forward: Forwarding, backend: Backend, asking: Asking
) -> None:
    """It may repeat what its own users wrote: whoever is behind that could show it to other nodes."""
    asked: list[Request] = []
    source, configured, named = [await net.server(hooks=Hooks(on_connect=asked.append)) for _ in range(3)]
    backend.urls = [f"rtmp://127.0.0.1:{port(named)}/live/victim"]
    forwarder = forward(
        source, at(configured), extra_targets=asking(backend.url, source), admits=lambda key: True,
        kinship=Kinship(("what-all-nodes-of-the-cluster-know",)),
    )  # fmt: skip
    await net.publisher(source)
    await live(forwarder, 2)
    said = [request.parameters["pyrtmp"] for request in asked if "pyrtmp" in request.parameters]
    assert [each.get("admits") for each in said] == [admission("publish", StreamKey("live", "cam")), None]
    assert all(each["proof"] for each in said)


def test_a_stream_of_the_program_itself() -> None:
    class Program:
        id = "program"

        def displaced(self, *args: object) -> None: ...

    hub = Hub(StreamSettings(), wake=lambda stream: None)
    question = ask(hub.publish(StreamKey("live", "cam"), Program(), 0.0), "node")
    assert (question["client_id"], question["ip"], question["tcUrl"], question["param"]) == ("program", "", "", "")


async def test_urls_that_are_no_targets_are_left_out(
    net: Net, forward: Forwarding, backend: Backend, asking: Asking
) -> None:
    source, target = await net.server(), await net.server()
    good = f"rtmp://127.0.0.1:{port(target)}/{{app}}"
    backend.urls = [f"http://127.0.0.1/{TOKEN}", good, "file:///etc/passwd", f"rtmp://h/live/x\r\n{TOKEN}"]
    forwarder = forward(source, extra_targets=asking(backend.url, source))
    await net.publisher(source)
    await live(forwarder)
    lines = journal(source).of("forward_target_refused")
    assert [(line["stream"], line["url"]) for line in lines] == [("live/cam", 1), ("live/cam", 3), ("live/cam", 4)]
    assert lines[0]["error"] == "should begin with rtmp:// or rtmps://"
    assert TOKEN not in repr(journal(source).lines)


# What goes wrong


async def _hang(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _hang_up(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _trickle(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)


async def _flood(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(8192))


async def _redirect(request: web.BaseRequest) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect(f"/elsewhere?token={TOKEN}")


async def _unpacks(request: web.BaseRequest) -> web.StreamResponse:
    assert request.headers["Accept-Encoding"] == "identity"
    return web.Response(body=gzip.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"})


def _text(text: str, status: int = 200) -> Answer:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=text, status=status)

    return answer


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_hang, "no answer within 0.1 s"),
        (_trickle, "no answer within 0.1 s"),
        (_hang_up, "ServerDisconnectedError"),
        (_flood, "the answer has more than 65536 bytes"),
        (_redirect, "the callback answered 307"),
        (_unpacks, "the answer is not JSON"),
        (_text("no", 500), "the callback answered 500"),
        (_text(f"<p>{TOKEN}</p>"), "the answer is not JSON"),
        (_text('{"code": 403, "data": null}'), "the callback answered code 403"),
    ],
    ids=lambda value: getattr(value, "__name__", "") if callable(value) else "",
)
async def test_a_callback_that_fails(
    net: Net, forward: Forwarding, backend: Backend, asking: Asking, monkeypatch: pytest.MonkeyPatch, answer: Answer,
    error: str,
) -> None:
    if error.startswith("no answer"):
        monkeypatch.setattr(callback, "ANSWER_SECONDS", 0.1)
    source, target = await net.server(), await net.server()
    backend.answer = answer
    forwarder = forward(source, *[_target(target)], extra_targets=asking(backend.url, source))
    await net.publisher(source)
    await live(forwarder)  # the others, at once
    await eventually(lambda: journal(source).of("forward_targets_failed"))
    assert journal(source).of("forward_targets_failed")[0]["error"] == error
    backend.answer = None
    backend.urls = [f"rtmp://127.0.0.1:{port(target)}/again"]
    await live(forwarder, 2)
    assert TOKEN not in repr(journal(source).lines)


async def test_nobody_answers_there(net: Net, asking: Asking) -> None:
    source = await net.server()
    await net.publisher(source)
    with socket.socket() as sock:  # bound, and not listening
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/?token={TOKEN}"
        with pytest.raises(AnswerError) as caught:
            await asking(url, source)(source.hub.live()[0])
    assert str(caught.value) == "Connection refused"


async def test_so_many_at_once_and_no_more(
    net: Net, forward: Forwarding, backend: Backend, asking: Asking
) -> None:
    source, target = await net.server(), await net.server()
    waiting, most, go = 0, 0, asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await go.wait()
        waiting -= 1
        return web.json_response({"code": 0, "data": {"urls": [f"rtmp://127.0.0.1:{port(target)}/live"]}})

    backend.answer = slow
    forwarder = forward(source, extra_targets=asking(backend.url, source))
    for number in range(callback.AT_ONCE + 4):
        await net.publisher(source, f"cam{number}")
    await eventually(lambda: waiting == callback.AT_ONCE)
    go.set()
    await live(forwarder, callback.AT_ONCE + 4)
    assert most == callback.AT_ONCE


def _target(server: Server) -> Any:
    return callback.parse_target(f"127.0.0.1:{port(server)}")


# Answers


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("", "the answer is not JSON"),
        ("[" * 60_000, "the answer is not JSON"),
        ("\xff\xfe", "the answer is not JSON"),
        ("0", "the answer is not {"),
        ('{"code": 0}', "the answer is not {"),
        ('{"code": 0, "data": {"urls": "rtmp://h/a"}}', "the answer is not {"),
        ('{"code": 0, "data": {"urls": ["rtmp://h/a", 5]}}', "the answer is not {"),
        ('{"code": "0", "data": {"urls": []}}', "the answer is not {"),
        ('{"code": 1}', "the callback answered code 1"),
        (json.dumps({"code": 0, "data": {"urls": ["rtmp://h/a"] * 33}}), "the answer has 33 urls, more than 32"),
    ],
)
def test_answers_that_are_none(answer: str, error: str) -> None:
    with pytest.raises(AnswerError) as caught:
        read_answer(answer.encode("latin-1"))
    assert str(caught.value).startswith(error)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["code", "data", "urls", ""]), inner),
    max_leaves=8,
)


@given(st.binary() | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_urls_or_an_error(body: bytes) -> None:
    try:
        urls = read_answer(body)
    except AnswerError:
        return
    assert all(isinstance(url, str) for url in urls) and len(urls) <= callback.MAX_URLS


@given(st.lists(st.text(), max_size=callback.MAX_URLS))
def test_urls_come_as_they_are(urls: list[str]) -> None:
    assert read_answer(json.dumps({"code": 0, "data": {"urls": urls}}).encode()) == urls
