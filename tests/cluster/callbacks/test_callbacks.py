"""A node and its back end: who is asked when, and what a back end that fails does to whom."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from cluster.access.keys import hash_key, new_key
from cluster.config import load
from cluster.node import Node
from cluster.recording.facts import Recorded
from cluster.workers.supervisor import Supervisor
from pyrtmp.aio.client import Client
from pyrtmp.errors import RefusedError
from pyrtmp.hooks import Hooks, Request
from pyrtmp.names import StreamKey
from tests.cluster.callbacks.backend import (
    KEY_FRAME,
    TOKEN,
    BackEnd,
    config,
    cut,
    endless,
    hang,
    played,
    publishing,
    status,
)
from tests.cluster.conftest import HERE
from tests.cluster.running import running
from tests.pyrtmp.aio.net import eventually

FAILURES = {
    "hangs": (hang, "no answer within 2 s"),
    "fails": (status(500), "the back end answered 500"),
    "garbage": (status(200, "<html>"), "the answer is not JSON"),
    "endless": (endless, "the answer has more than 4096 bytes"),
    "cut": (cut, "ServerDisconnectedError"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("on_failure", ["refuse", "allow"])
async def test_a_back_end_that_fails_for_one_client(back_end: BackEnd, failure: str, on_failure: str) -> None:
    answer, reason = FAILURES[failure]
    back_end.answers["bad"] = answer
    some = config(back_end.url, "srs", "callbacks.deadline_seconds=2", f"callbacks.on_failure={on_failure}",
                  "callbacks.retries=0")  # fmt: skip
    with capture_logs() as log:
        async with running(some) as node:

            async def bad() -> str:
                try:
                    async with publishing(node, "live/cam?bad=1"):
                        return "allowed"
                except RefusedError as error:
                    return error.code

            async with publishing(node, "live/before"):
                one = asyncio.create_task(bad())
                await back_end.until("bad=1")
                async with publishing(node, "live/good"):
                    await played(node, "live/good")
                    await played(node, "live/before")
                assert failure != "hangs" or not one.done()
                assert await one == ("allowed" if on_failure == "allow" else "NetStream.Publish.Denied")
            assert node.server.counters.refused["callback_failed"] == (on_failure == "refuse")
    assert reason in str(log) and TOKEN not in str(log)


async def test_a_dead_back_end_with_others_live(back_end: BackEnd) -> None:
    """Publishers go on, whatever becomes of those who come meanwhile."""
    async with running(config(back_end.url, "srs", "callbacks.retries=0")) as node:
        async with publishing(node) as publisher:
            with socket.create_server(("127.0.0.1", 0)) as nobody:
                port = nobody.getsockname()[1]
            node.engine.configure(config(f"http://127.0.0.1:{port}/", "srs", "callbacks.retries=0"))
            with pytest.raises(RefusedError):
                await played(node)
            node.engine.configure(config(back_end.url, "srs", "callbacks.retries=0"))
            player = await Client.connect(f"rtmp://{node.rtmp_address}/live/cam")
            messages = player.play()
            await publisher.send(KEY_FRAME)
            assert (await anext(messages)).type in (9, 18)
            await messages.aclose()  # type: ignore[attr-defined]
            await player.close()


async def test_questions_are_bounded(back_end: BackEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are asked at once, so many more wait, and the rest has failed at once."""
    monkeypatch.setattr("cluster.callbacks.callbacks.WAITING", 1)
    release = asyncio.Event()

    async def later(request: web.BaseRequest) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="0")

    back_end.answers["on_play"] = later
    some = config(back_end.url, "srs", "callbacks.concurrency=2", "stream.play_wait_seconds=0")
    async with running(some) as node, aiohttp.ClientSession(f"http://{node.http_address}") as http:

        async def ask(number: int) -> int:
            async with http.get(f"/live/cam{number}.flv") as response:
                return response.status

        tasks = [asyncio.create_task(ask(number)) for number in range(6)]
        await eventually(lambda: sum(task.done() for task in tasks) == 2)
        assert len(await back_end.until("on_play", 2)) == 2
        # Publishing is asked about in the same way: there is no room for it now.
        with pytest.raises(RefusedError):
            async with publishing(node):
                pass
        release.set()
        assert sorted(await asyncio.gather(*tasks)) == [401] * 2 + [404] * 4  # nobody publishes
        assert len(back_end.of("on_play")) == 4


async def test_only_what_has_a_url_is_asked(back_end: BackEnd) -> None:
    some = load(None, [*HERE, f"callbacks.on_publish={back_end.url}"], {})
    async with running(some) as node:
        async with publishing(node):
            await played(node)
        node.engine.callbacks.recorded(StreamKey("live", "cam"), None, Recorded("live/cam", "/data/1.mp4", 1, 1))
    assert [each.json["action"] for each in back_end.asked] == ["on_publish"]


async def test_rules_say_when_it_is_asked(back_end: BackEnd) -> None:
    key = new_key()
    back_end.answers["no="] = status(200, "1")
    rules = ["publish live/* key callback", "play live/* callback", "* open/* allow"]
    some = config(
        back_end.url, "srs", f"access.rules={','.join(rules)}", f"access.keys=publish live/cam {hash_key(key)}"
    )  # fmt: skip
    async with running(some) as node:
        async with publishing(node, f"live/cam?key={key}"), publishing(node, "open/cam"):
            assert not back_end.of("on_publish")
            await played(node, "open/cam")
            assert not back_end.of("on_play")
            await played(node)
            with pytest.raises(RefusedError):
                await played(node, "live/cam?no=1")
        async with publishing(node):
            assert len(back_end.of("on_publish")) == 1


async def test_hooks_of_the_embedding_program_come_first(back_end: BackEnd) -> None:
    asked: list[str] = []

    async def on_connect(request: Request) -> None:
        asked.append(request.app)
        if request.app == "no":
            raise RefusedError("NetConnection.Connect.Rejected", "no")

    def on_publish(request: Request) -> StreamKey:
        return StreamKey("live", "other")

    done: list[Request] = []
    hooks = Hooks(on_connect=on_connect, on_publish=on_publish, on_publish_done=done.append)
    async with running(config(back_end.url, "srs"), hooks) as node:
        with pytest.raises(RefusedError):
            await Client.connect(f"rtmp://{node.rtmp_address}/no/cam")
        assert asked == ["no"] and not back_end.asked
        async with publishing(node):
            assert node.server.hub.is_live(StreamKey("live", "other"))
        await back_end.until("on_unpublish")
        assert not back_end.of("on_publish") and len(done) == 1


async def test_notifications_come_again_until_they_arrive(back_end: BackEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.callbacks.notifications.FIRST_RETRY", 0.01)
    back_end.answers |= {"on_unpublish": status(503), "on_dvr": status(503)}
    some = config(back_end.url, "srs", "callbacks.retries=20", f"callbacks.secret={'s' * 32}")
    async with running(some) as node:
        async with publishing(node):
            pass
        node.engine.callbacks.recorded(StreamKey("live", "cam"), None, Recorded("live/cam", "/data/1.mp4", 1, 1))
        await back_end.until("on_unpublish", 3)
        await back_end.until("on_dvr", 3)
        back_end.answers.clear()
        await eventually(lambda: not len(node.engine.callbacks._notifications))
        assert node.engine.callbacks._notifications.lost == 0
        assert all("X-Pyrtmp-Signature" in each.headers for each in back_end.asked)


async def test_what_ends_with_the_node_is_told(back_end: BackEnd) -> None:
    async with running(config(back_end.url, "srs")) as node:
        publisher = await Client.connect(f"rtmp://{node.rtmp_address}/live/cam")
        await publisher.publish()
    await publisher.close()
    assert len(back_end.of("on_unpublish")) == 1


async def test_settings_change_while_it_runs(back_end: BackEnd) -> None:
    found = [load(None, HERE, {}), load(None, [*HERE, f"callbacks.on_publish={back_end.url}"], {})]
    node = Node(found[0], reload=lambda: found[1])
    await node.start()
    try:
        async with publishing(node):
            assert not back_end.asked
            assert node.reload().changed == ("callbacks.on_publish",)
            async with publishing(node, "live/other"):
                assert len(back_end.asked) == 1
            found[1] = found[0]
            node.reload()
            async with publishing(node, "live/third"):
                assert len(back_end.asked) == 1
            assert node.server.hooks == Hooks()
    finally:
        await node.close()


async def test_every_worker_asks(back_end: BackEnd) -> None:
    back_end.answers["refuse-me"] = status(200, "1")
    some = config(back_end.url, "srs")
    node = Supervisor(replace(some, node=replace(some.node, workers=1)))
    try:
        await node.start()
        url = f"rtmp://{node.rtmp_address}/live"
        async with await Client.connect(f"{url}/cam") as client:
            await client.publish()
        await back_end.until("on_unpublish")
        async with await Client.connect(f"{url}/cam?refuse-me") as client:
            with pytest.raises(RefusedError):
                await client.publish()
        async with await Client.connect(f"{url}/last") as client:
            await client.publish()
            await node.drain()
        await back_end.until("/live/last")
        assert [each.json["stream"] for each in back_end.of("on_unpublish")] == ["cam", "last"]
    finally:
        with contextlib.suppress(RefusedError, ConnectionError):
            await node.close()
