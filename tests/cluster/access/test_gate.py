from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import aiohttp
import pytest
from structlog.testing import capture_logs

from cluster.access.keys import hash_key, new_key
from cluster.access.signed import signed_query
from cluster.config import Config, load
from cluster.lifecycle import Lifecycle
from cluster.node import Node
from cluster.workers.supervisor import Supervisor
from pyrtmp.aio.client import Client
from pyrtmp.errors import RefusedError
from pyrtmp.hooks import Hooks, Request
from pyrtmp.names import StreamKey
from tests.cluster.conftest import HERE
from tests.cluster.running import running

SECRET = "a-secret-to-sign-with"


def config(*rules: str, **settings: object) -> Config:
    given = {"rules": list(rules), **settings}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    return load(None, [*HERE, *(f"access.{name}={text}" for name, text in texts.items())], {})


async def publish(node: Lifecycle, stream: str) -> Client:
    client = await Client.connect(f"rtmp://{node.rtmp_address}/{stream}")
    try:
        await client.publish()
    except BaseException:
        await client.close()
        raise
    return client


async def refusal(node: Lifecycle, stream: str) -> str:
    with pytest.raises(RefusedError) as caught:
        await publish(node, stream)
    return caught.value.code


async def test_everything_is_open_by_default() -> None:
    async with running(config()) as node:
        assert node.server.hooks.on_publish is None and node.server.hooks.on_play is None
        async with await publish(node, "live/cam"):
            pass


async def test_as_obs_sends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.engine._FRESH_SECONDS", 0.0)
    key = new_key()
    async with running(config("publish live/* key", keys=[f"publish live/cam {hash_key(key)}"])) as node:
        with capture_logs() as log:
            async with await publish(node, f"live/cam?key={key}"):
                assert node.server.hub.is_live(StreamKey("live", "cam"))
            for query in ("", "?key=", "?key=x", f"?key={key}x", f"?{key}"):
                assert await refusal(node, f"live/cam{query}") == "NetStream.Publish.Denied"
            assert await refusal(node, f"live/other?key={key}") == "NetStream.Publish.Denied"
        assert {each["why"] for each in log if each["event"] == "refused"} == {
            "no_credential", "wrong_key", "the key is for another stream or action",
        }  # fmt: skip
        assert "publish" in {each["event"] for each in log} and key not in str(log)
        refused = node.server.counters.refused
        assert (refused["no_credential"], refused["wrong_key"], refused["key_of_another"]) == (3, 2, 1)
        async with aiohttp.ClientSession() as http, http.get(f"http://{node.api_address}/metrics") as response:
            assert 'pyrtmp_refused_total{reason="wrong_key"} 2.0' in await response.text()


async def test_the_key_may_stand_in_the_url_of_the_application() -> None:
    """For encoders that put everything into one field."""
    key = new_key()
    async with running(config("publish * key", keys=[f"publish * {hash_key(key)}"])) as node:
        for query, fits in ((f"key={key}", True), ("key=x", False)):
            url = f"rtmp://{node.rtmp_address}/live"
            async with await Client.connect(f"{url}/cam", tcUrl=f"{url}?{query}") as client:
                if fits:
                    await client.publish()
                else:
                    with pytest.raises(RefusedError):
                        await client.publish()


async def test_brute_force_is_slowed() -> None:
    key = new_key()
    some = config("publish * key", keys=[f"publish * {hash_key(key)}"], failures_per_minute=3)
    some = replace(some, stream=replace(some.stream, play_wait_seconds=0), hls=replace(some.hls, wait_seconds=0.1))
    async with running(some) as node:
        for number in range(6):
            await refusal(node, f"live/cam?key={number}")
        refused = node.server.counters.refused
        assert (refused["wrong_key"], refused["throttled"]) == (3, 3)
        assert await refusal(node, f"live/cam?key={key}") == "NetStream.Publish.Denied"
        async with aiohttp.ClientSession(f"http://{node.http_address}") as http:
            # Who guesses at publishing may still play, which nobody has forbidden: there is no such stream.
            async with http.get("/live/cam.m3u8", params={"key": "x"}) as response:
                assert response.status == 404


async def test_other_rules_while_it_runs() -> None:
    key = new_key()
    closed = config("publish * key", keys=[f"publish * {hash_key(key)}"])
    found = [config(), closed]
    node = Node(found[0], reload=lambda: found[1])
    await node.start()
    try:
        async with await publish(node, "live/cam"):
            assert node.reload().changed == ("access.rules", "access.keys")
            assert await refusal(node, "live/other") == "NetStream.Publish.Denied"
            assert node.server.hub.is_live(StreamKey("live", "cam"))
            async with await publish(node, f"live/other?key={key}"):
                pass
    finally:
        await node.close()


async def test_hooks_of_the_embedding_program_are_one_of_the_checks() -> None:
    asked: list[tuple[str, str]] = []

    async def on_publish(request: Request) -> None:
        asked.append((request.protocol, request.query))
        await asyncio.sleep(0)
        if request.query != "name=ok":
            raise RefusedError("NetStream.Publish.Denied", "not you")

    def on_play(request: Request) -> None:
        raise OSError("the hook is broken")

    hooks = Hooks(on_publish=on_publish, on_play=on_play)
    some = config("publish live/* signed hook", "publish no/* deny", signed_secret=SECRET)
    async with running(some, hooks) as node:
        async with await publish(node, "live/cam?name=ok"), await publish(node, "other/cam?name=ok"):
            assert asked == [("rtmp", "name=ok")] * 2  # by the rule, and where no rule is
        assert await refusal(node, "live/cam?name=x") == "NetStream.Publish.Denied"
        assert await refusal(node, "no/cam?name=ok") == "NetStream.Publish.Denied"
        query = signed_query(SECRET, "publish", "live/cam", 2**33)
        async with await publish(node, f"live/cam?{query}"):
            assert len(asked) == 3  # the signature decided
        async with aiohttp.ClientSession(f"http://{node.http_address}") as http:
            async with http.get("/live/cam.m3u8") as response:  # what fails refuses
                assert response.status == 403 and "broken" not in await response.text()


async def test_the_page_names_no_streams_where_that_is_not_wanted() -> None:
    for wanted in (True, False):
        async with running(config(list_streams=wanted)) as node, await publish(node, "live/cam"):
            async with aiohttp.ClientSession(f"http://{node.http_address}") as http:
                async with http.get("/_page/streams.json") as response:
                    streams = (await response.json())["streams"]
            assert bool(streams) == wanted


async def test_a_page_elsewhere_may_send_its_token() -> None:
    async with running(config("play * key", keys=[f"play * {hash_key(new_key())}"])) as node:
        async with aiohttp.ClientSession(f"http://{node.http_address}") as http:
            async with http.options("/live/cam.m3u8", headers={"Origin": "http://elsewhere"}) as response:
                assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
            async with http.get("/live/cam.m3u8") as response:
                assert response.headers["WWW-Authenticate"].startswith("Bearer ")


async def test_every_worker_obeys() -> None:
    """Also when the rules change."""
    key = new_key()
    closed = config("publish * key", "api-write * deny", keys=[f"publish * {hash_key(key)}"])
    settings = [replace(each, node=replace(each.node, workers=1)) for each in (config(), closed)]
    node = Supervisor(settings[0], reload=lambda: settings[1])
    try:
        await node.start()
        async with await publish(node, "live/cam"):
            node.reload()
            async with asyncio.timeout(5):
                while True:  # until the worker has heard of it
                    try:
                        await (await publish(node, "live/other")).close()
                    except RefusedError as error:
                        assert error.code == "NetStream.Publish.Denied"
                        break
            async with await publish(node, f"live/third?key={key}"):
                pass
            async with aiohttp.ClientSession(f"http://{node.api_address}") as http:
                async with http.delete("/api/v1/streams/live/cam") as response:
                    assert response.status == 401
                async with asyncio.timeout(5):
                    wanted = {'reason="no_credential"} 1.0', 'reason="denied"} 1.0'}
                    while wanted:  # until the worker has counted
                        async with http.get("/metrics") as response:
                            text = await response.text()
                        wanted = {each for each in wanted if each not in text}
    finally:
        await node.close()
