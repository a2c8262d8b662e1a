"""A back end of SRS: what it is sent, field by field, and what its answers do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

import aiohttp
import pytest

from cluster.callbacks.events import ALLOWED, REFUSED, AnswerError, Event, Reply, Subject
from cluster.callbacks.srs import Srs
from cluster.publish import publish
from cluster.recording.facts import Recorded
from pyrtmp.errors import RefusedError
from pyrtmp.names import StreamKey
from tests.cluster.callbacks.backend import BackEnd, config, played, publishing, status
from tests.cluster.running import running


async def test_what_it_is_sent(back_end: BackEnd) -> None:
    said = {"pageUrl": "http://page/?a=\u00e9", "flashVer": "OBS", "tcUrl": "rtmp://name/live?x=1"}
    async with running(config(back_end.url, "srs")) as node:
        async with publishing(node, "live/cam?key=a%2F", **said):
            await played(node, "live/cam?k=2", **said)
            (stopped,) = await back_end.until("on_stop")
        (unpublished,) = await back_end.until("on_unpublish")
    actions = [each.json["action"] for each in back_end.asked]
    assert actions == ["on_connect", "on_publish", "on_connect", "on_play", "on_stop", "on_unpublish"]
    connect, publish, _, play, _, _ = (each.json for each in back_end.asked)
    common = {
        "server_id": "node-1", "service_id": publish["service_id"], "ip": "127.0.0.1", "vhost": "__defaultVhost__",
        "app": "live", "tcUrl": "rtmp://name/live?x=1", "client_id": publish["client_id"],
    }  # fmt: skip
    stream = {"stream": "cam", "stream_url": "/live/cam", "stream_id": publish["stream_id"]}
    assert connect == common | {
        "action": "on_connect", "stream": "", "param": "?x=1", "pageUrl": "http://page/?a=\u00e9"
    }  # fmt: skip
    assert publish == common | stream | {"action": "on_publish", "param": "?key=a%2F"}
    assert unpublished.json == publish | {"action": "on_unpublish"}
    assert play == common | stream | {
        "action": "on_play", "param": "?k=2", "pageUrl": "http://page/?a=\u00e9", "client_id": play["client_id"]
    }  # fmt: skip
    expected = play | {"action": "on_stop"}
    del expected["pageUrl"]
    assert stopped.json == expected
    assert play["client_id"] != publish["client_id"] and publish["stream_id"].startswith("vid-")


@pytest.mark.parametrize(
    ("reply", "decision"),
    [
        (Reply(200, body=b"0"), ALLOWED),
        (Reply(200, body=b" 0\n"), ALLOWED),
        (Reply(200, body=b'{"code": 0, "data": ""}'), ALLOWED),
        (Reply(201, body=b'{"code":0}'), ALLOWED),
        (Reply(200, body=b"1"), REFUSED),
        (Reply(200, body=b'{"code": 403}'), REFUSED),
        (Reply(204), REFUSED),
        (Reply(302, "http://elsewhere/", b"0"), REFUSED),
        (Reply(403, body=b"0"), REFUSED),
    ],
)
def test_what_answers_mean(reply: Reply, decision: object) -> None:
    assert Srs("node").read(Event.PUBLISH, reply) == decision


@pytest.mark.parametrize(
    "body", [b"", b"OK", b"\xff", b'{"code": "0"}', b'{"code": false}', b"false", b"0.0", b"{}", b"[0]", b"[" * 4000]
)
def test_what_is_no_answer(body: bytes) -> None:
    with pytest.raises(AnswerError) as caught:
        Srs("node").read(Event.PUBLISH, Reply(200, body=body))
    assert "OK" not in str(caught.value)


@pytest.mark.parametrize("action", ["on_connect", "on_publish", "on_play"])
async def test_it_refuses(back_end: BackEnd, action: str) -> None:
    back_end.answers[action] = status(200, '{"code": 1}')
    async with running(config(back_end.url, "srs")) as node:
        with pytest.raises(RefusedError) as caught:
            async with publishing(node):
                await played(node)
        codes = {
            "on_connect": "NetConnection.Connect.Rejected", "on_publish": "NetStream.Publish.Denied",
            "on_play": "NetStream.Play.Failed",
        }  # fmt: skip
        assert caught.value.code == codes[action]
        assert node.server.counters.refused["callback"] == 1


async def test_an_hls_player_is_one_client(back_end: BackEnd, clip: Path) -> None:
    """It asks for a playlist and segments again and again, and just stays away in the end."""
    headers = {"User-Agent": "player", "Referer": "http://page/"}
    some = config(back_end.url, "srs", "hls.fragment=1", "hls.max_fragment=1")
    async with running(some) as node:
        url, started = f"rtmp://{node.rtmp_address}/live/clip?key=1", asyncio.Event()
        task = asyncio.create_task(publish(clip, url, repeat=True, started=started.set))
        await started.wait()
        async with aiohttp.ClientSession(f"http://{node.http_address}", headers=headers) as http:
            async with http.get("/live/clip.m3u8?token=a") as response:
                assert response.status == 200
                lines = (await response.text()).splitlines()
            for path in (line for line in lines if not line.startswith("#")):
                async with http.get(f"/live/{path}") as response:
                    assert response.status == 200
            (play,) = back_end.of("on_play")
            # Somebody else at the same address and with the same User-Agent, and with nothing to show.
            async with http.get("/live/clip.m3u8") as response:
                assert response.status == 200
            assert len(back_end.of("on_play")) == 2
        node.engine.site.audience.seconds = 0.1
        stopped = await back_end.until("on_stop", 2)
        assert [each.json["param"] for each in stopped] == ["?token=a", ""]
        made = (await back_end.until("on_hls"))[0].json
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError, RefusedError):
            await task
    assert play.json | {"client_id": 0, "service_id": 0, "stream_id": 0} == {
        "action": "on_play", "server_id": "node-1", "ip": "127.0.0.1", "vhost": "__defaultVhost__", "app": "live",
        "stream": "clip", "tcUrl": "rtmp://__defaultVhost__/live", "param": "?token=a", "pageUrl": "http://page/",
        "stream_url": "/live/clip", "client_id": 0, "service_id": 0, "stream_id": 0,
    }  # fmt: skip
    publisher = back_end.of("on_publish")[0].json
    segment = {key: made.pop(key) for key in ("url", "seq_no", "duration")}
    assert made == publisher | {"action": "on_hls", "cwd": "", "file": "", "m3u8": "", "m3u8_url": "live/clip.m3u8"}
    assert segment["url"] == f"live/clip/{segment['seq_no']}.ts" and segment["duration"] == pytest.approx(1, abs=0.1)
    assert publisher["param"] == "?key=1"


async def test_a_recorded_file(back_end: BackEnd) -> None:
    """Its publisher has left by then."""
    key, file = StreamKey("live", "cam"), Recorded("live/cam", "recordings/live/cam/1.mp4", 9.5, 1000)
    async with running(config(back_end.url, "srs")) as node:
        async with publishing(node, "live/cam?key=1", flashVer="OBS"):
            publisher = node.engine._publisher(key)
        await back_end.until("on_unpublish")
        node.engine.callbacks.recorded(key, publisher, file)
        (told,) = await back_end.until("on_dvr")
        node.engine.callbacks.recorded(key, None, file)
        unknown = (await back_end.until("on_dvr", 2))[1]
    (published,) = back_end.of("on_publish")
    where = {"action": "on_dvr", "cwd": os.getcwd(), "file": "recordings/live/cam/1.mp4"}
    assert told.json == published.json | where and published.json["param"] == "?key=1"
    nobody = {"client_id": "", "ip": "", "param": "", "tcUrl": "rtmp://__defaultVhost__/live"}
    assert unknown.json == told.json | nobody


def test_a_process_whose_directory_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    body = json.loads(Srs("node").write(Event.DVR, Subject(app="live", name="cam", file="/data/1.mp4")))
    assert (body["cwd"], body["file"]) == ("", "/data/1.mp4")


async def test_a_refused_hls_player_is_asked_about_again(back_end: BackEnd) -> None:
    back_end.answers["on_play"] = status(200, "1")
    async with running(config(back_end.url, "srs", "hls.wait_seconds=0.1", "stream.play_wait_seconds=0")) as node:
        async with aiohttp.ClientSession(f"http://{node.http_address}") as http:
            for path in ("/live/cam.m3u8", "/live/cam/1.ts", "/live/cam.m3u8?token=x"):
                async with http.get(path) as response:
                    assert response.status == (403 if "token" in path else 401)
                    assert "back end" not in await response.text()
            del back_end.answers["on_play"]
            async with http.get("/live/cam.m3u8") as response:
                assert response.status == 404
            assert len(back_end.of("on_play")) == 4
    assert len(back_end.of("on_stop")) == 1  # at the end
