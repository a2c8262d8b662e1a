"""A back end of MediaMTX: its one question, field by field."""

from __future__ import annotations

import base64
import json

import aiohttp
import pytest

from cluster.callbacks.events import ALLOWED, REFUSED, Event, Reply, Subject
from cluster.callbacks.mediamtx import Mediamtx
from cluster.recording.facts import Recorded
from pyrtmp.errors import RefusedError
from pyrtmp.names import StreamKey
from tests.cluster.callbacks.backend import BackEnd, config, played, publishing, status
from tests.cluster.running import running


async def test_what_it_is_sent(back_end: BackEnd) -> None:
    async with running(config(back_end.url, "mediamtx")) as node:
        async with publishing(node, "live/cam?user=me&pass=p%26w&x=1", flashVer="OBS"):
            await played(node, "live/cam?token=abc")
            basic = base64.b64encode(b"me:secret:2").decode()
            headers = {"Authorization": f"Basic {basic}", "User-Agent": "agent"}
            async with aiohttp.ClientSession(f"http://{node.http_address}", headers=headers) as http:
                async with http.get("/live/cam.flv?x=1") as response:
                    assert response.status == 200
    publish, play, flv = (each.json for each in back_end.asked)
    assert publish == {
        "user": "me", "password": "p&w", "token": "", "ip": "127.0.0.1", "action": "publish", "path": "live/cam",
        "protocol": "rtmp", "id": publish["id"], "query": "user=me&pass=p%26w&x=1", "userAgent": "OBS",
    }  # fmt: skip
    assert (play["action"], play["user"], play["token"], play["query"]) == ("read", "", "abc", "token=abc")
    assert flv == {
        "user": "me", "password": "secret:2", "token": "", "ip": "127.0.0.1", "action": "read", "path": "live/cam",
        "protocol": "flv", "id": flv["id"], "query": "x=1", "userAgent": "agent",
    }  # fmt: skip
    assert len({publish["id"], play["id"], flv["id"]}) == 3


async def test_it_is_told_nothing(back_end: BackEnd) -> None:
    async with running(config(back_end.url, "mediamtx")) as node:
        async with publishing(node):
            pass
        node.engine.callbacks.recorded(StreamKey("live", "cam"), None, Recorded("live/cam", "/data/1.mp4", 1, 1))
    assert [each.json["action"] for each in back_end.asked] == ["publish"]


@pytest.mark.parametrize(
    ("query", "authorization", "credentials"),
    [
        ("", "", ("", "", "")),
        ("jwt=old", "", ("", "", "old")),
        ("token=query", "Bearer header", ("", "", "header")),
        ("", "bearer me:secret", ("me", "secret", "")),
        ("user=me", "Basic !!!", ("", "", "")),
        ("user=a&user=b", "", ("b", "", "")),
        ("&".join(f"a{n}=1" for n in range(100)), "", ("", "", "")),
    ],
)
def test_credentials(query: str, authorization: str, credentials: tuple[str, str, str]) -> None:
    body = json.loads(Mediamtx().write(Event.PLAY, Subject(query=query, authorization=authorization)))
    assert (body["user"], body["password"], body["token"]) == credentials


@pytest.mark.parametrize(
    ("number", "decision"), [(200, ALLOWED), (204, ALLOWED), (209, ALLOWED), (210, REFUSED), (302, REFUSED),
                             (401, REFUSED), (404, REFUSED)]
)  # fmt: skip
def test_what_answers_mean(number: int, decision: object) -> None:
    assert Mediamtx().read(Event.PUBLISH, Reply(number, "elsewhere")) == decision


async def test_it_refuses(back_end: BackEnd) -> None:
    back_end.answers['"user": ""'] = status(401)
    async with running(config(back_end.url, "mediamtx")) as node:
        with pytest.raises(RefusedError):
            async with publishing(node):
                pass
        async with publishing(node, "live/cam?user=me&pass=x"):
            with pytest.raises(RefusedError):
                await played(node)


async def test_a_rule_has_it_decide_for_the_api(back_end: BackEnd) -> None:
    back_end.answers['"token": "good"'] = status(200)
    back_end.answers[""] = status(401)
    async with running(config(back_end.url, "mediamtx", "access.rules=api-read * callback")) as node:
        async with aiohttp.ClientSession(f"http://{node.api_address}") as http:
            for token, expected in (("good", 200), ("bad", 403)):
                async with http.get("/api/v1/streams", headers={"Authorization": f"Bearer {token}"}) as response:
                    assert response.status == expected
        asked = node._callbacks._poster._session
    assert asked is not None and asked.closed
    assert back_end.asked[0].json == {
        "user": "", "password": "", "token": "good", "ip": "127.0.0.1", "action": "api", "path": "", "protocol": "",
        "id": "", "query": "", "userAgent": "",
    }  # fmt: skip


async def test_a_back_end_that_fails_opens_the_api_to_nobody(back_end: BackEnd) -> None:
    """Whatever becomes of those who publish and play."""
    back_end.answers[""] = status(500)
    rules = 'access.rules=["* * callback", "api-read,api-write * callback"]'
    some = config(back_end.url, "mediamtx", rules, "callbacks.on_failure=allow")
    async with running(some) as node:
        async with publishing(node), aiohttp.ClientSession(f"http://{node.api_address}") as http:
            async with http.get("/api/v1/streams", headers={"Authorization": "Bearer anything"}) as response:
                assert response.status == 403
            async with http.delete("/api/v1/streams/live/cam") as response:
                assert response.status == 401
