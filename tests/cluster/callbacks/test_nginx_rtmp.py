"""A back end of nginx-rtmp: forms, field by field, and statuses that allow, refuse, rename and send elsewhere."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest

from cluster.callbacks.events import ALLOWED, REFUSED, Decision, Event, Reply, Subject
from cluster.callbacks.nginx_rtmp import NginxRtmp
from cluster.recording.facts import Recorded
from pyrtmp.aio.client import Client
from pyrtmp.errors import RefusedError
from pyrtmp.names import StreamKey
from tests.cluster.callbacks.backend import BackEnd, config, played, publishing, status
from tests.cluster.running import running


async def test_what_it_is_sent(back_end: BackEnd) -> None:
    said = {"pageUrl": "http://page/?a=1&b=\u00e9", "flashVer": "OBS", "swfUrl": "s.swf", "tcUrl": "rtmp://name/live"}
    async with running(config(back_end.url, "nginx-rtmp")) as node:
        async with publishing(node, "live/cam?key=a%26b&empty=&call=done&name=other", **said):
            await played(node, "live/cam?user=%C3%A9")
            await back_end.until("call=done")
        await back_end.until("call=done", 2)
    forms = {tuple(each.form) for each in back_end.asked}
    assert all(len(dict(form)) == len(form) for form in forms)
    found = [dict(form) for form in sorted(forms, key=lambda form: dict(form)["call"])]
    assert [each["call"] for each in found] == [
        "connect", "connect", "done", "done", "play", "play_done", "publish", "publish_done"
    ]  # fmt: skip
    (connect,) = (each for each in found if each["call"] == "connect" and each["flashver"] == "OBS")
    play, play_done, publish, publish_done = found[4:]
    client = {
        "app": "live", "flashver": "OBS", "swfurl": "s.swf", "tcurl": "rtmp://name/live",
        "pageurl": "http://page/?a=1&b=\u00e9", "addr": "127.0.0.1", "clientid": publish["clientid"],
    }  # fmt: skip
    assert abs(int(connect.pop("epoch")) - time.time()) < 60
    assert connect == client | {"call": "connect"}
    # What the client says of call and name is not heard.
    assert publish == client | {"call": "publish", "name": "cam", "type": "live", "key": "a&b", "empty": ""}
    assert publish_done == client | {"call": "publish_done", "name": "cam", "key": "a&b", "empty": ""}
    assert (play["name"], play["user"], play["addr"]) == ("cam", "\u00e9", "127.0.0.1")
    assert play_done == play | {"call": "play_done"}
    assert publish_done | {"call": "done"} in found and play_done | {"call": "done"} in found


async def test_a_recorded_file(back_end: BackEnd) -> None:
    """Its publisher has asked for another name, has left by then, and does not say where the file is."""
    key = StreamKey("live", "real")
    back_end.answers["call=publish&"] = status(302, Location="real")
    async with running(config(back_end.url, "nginx-rtmp")) as node:
        forged = "path=/etc/passwd&path[]=/etc/passwd&%20recorder=x&PATH=/etc/passwd"
        async with publishing(node, f"live/alias?key=1&{forged}", flashVer="OBS"):
            publisher = node.engine._publisher(key)
        (ended,) = await back_end.until("call=publish_done")
        node.engine.callbacks.recorded(key, publisher, Recorded("live/real", "recordings/1.flv", 9.5, 1000))
        (told,) = await back_end.until("call=record_done")
    form = dict(told.form)
    assert len(form) == len(told.form)
    assert form == dict(ended.form) | {
        "call": "record_done", "name": "real", "recorder": "", "path": str(Path.cwd() / "recordings/1.flv")
    }  # fmt: skip
    assert (form["flashver"], form["key"], form["addr"]) == ("OBS", "1", "127.0.0.1")


ELSEWHERE = "rtmp://192.0.2.1/app/name"


@pytest.mark.parametrize(
    ("event", "reply", "decision"),
    [
        (Event.PUBLISH, Reply(200), ALLOWED),
        (Event.PLAY, Reply(204), ALLOWED),
        (Event.PUBLISH, Reply(302, "other"), Decision(True, name="other")),
        (Event.PLAY, Reply(301, "other?x=1"), Decision(True, name="other")),
        (Event.PLAY, Reply(302, ELSEWHERE), Decision(False, url=ELSEWHERE)),
        (Event.PLAY, Reply(302, "http://h/x"), Decision(False, url="http://h/x")),
        (Event.PLAY, Reply(302, "file:///etc/passwd"), REFUSED),
        (Event.PLAY, Reply(302, "rtmp://h/a\r\nb: c"), REFUSED),
        (Event.PLAY, Reply(302, "rtmp://h/" + "x" * 3000), REFUSED),
        (Event.PUBLISH, Reply(302, ELSEWHERE), REFUSED),
        (Event.PUBLISH, Reply(304), REFUSED),
        (Event.CONNECT, Reply(302, "other"), REFUSED),
        (Event.PUBLISH, Reply(404), REFUSED),
        (Event.PUBLISH, Reply(100), REFUSED),
        (Event.STOP, Reply(302, "other"), ALLOWED),
        (Event.STOP, Reply(404), REFUSED),
        (Event.DVR, Reply(204), ALLOWED),
        (Event.DVR, Reply(500), REFUSED),
    ],
)
def test_what_answers_mean(event: Event, reply: Reply, decision: Decision) -> None:
    assert NginxRtmp().read(event, reply) == decision


@pytest.mark.parametrize("name", ["addr", "%20addr", "addr%20", "addr[]", "addr%5Bx", "addr%00x", "%09ADDR%5B%5D"])
def test_no_client_says_what_its_address_is(name: str) -> None:
    """Nor in a way that PHP, Rails and others read as if it were that field."""
    body = NginxRtmp().write(Event.PLAY, Subject(app="live", name="cam", query=f"{name}=10.0.0.1&a[]=x&address=y"))
    assert b"10.0.0.1" not in body and body.endswith(b"&a%5B%5D=x&address=y")


def test_too_many_arguments_are_left_out() -> None:
    body = NginxRtmp().write(Event.PLAY, Subject(app="live", name="cam", query="&".join(f"a{n}=1" for n in range(100))))
    assert b"a1" not in body and b"name=cam" in body


async def test_a_publisher_and_a_player_are_given_another_name(back_end: BackEnd) -> None:
    back_end.answers["call=publish&"] = status(302, Location="secret-name")
    back_end.answers["name=alias"] = status(302, Location="secret-name")
    async with running(config(back_end.url, "nginx-rtmp")) as node:
        async with publishing(node, "live/my-key"):
            assert [str(stream.key) for stream in node.server.hub.live()] == ["live/secret-name"]
            await played(node, "live/alias")
            async with aiohttp.ClientSession(f"http://{node.http_address}") as http:
                async with http.get("/live/alias.flv") as response:
                    assert response.status == 200
        (done,) = await back_end.until("call=publish_done")
        assert dict(done.form)["name"] == "my-key"
        assert not node.server.hub.is_live(StreamKey("live", "secret-name"))


@pytest.mark.parametrize("name", ["../up", "a b", "/other", "x" * 2000, "%2e%2e"])
async def test_a_name_that_cannot_be_is_refused(back_end: BackEnd, name: str) -> None:
    back_end.answers["call=publish&"] = status(302, Location=name)
    async with running(config(back_end.url, "nginx-rtmp", "callbacks.on_failure=allow")) as node:
        with pytest.raises(RefusedError, match="permission"):
            async with publishing(node):
                pass
        assert node.server.counters.refused["callback_failed"] == 1


async def test_players_are_sent_elsewhere(back_end: BackEnd) -> None:
    back_end.answers["name=far"] = status(302, Location=ELSEWHERE)
    back_end.answers["name=web"] = status(302, Location="https://192.0.2.1/x.flv?a=1")
    async with running(config(back_end.url, "nginx-rtmp")) as node:
        with pytest.raises(RefusedError, match="RTMP 302 Redirect") as caught:
            await played(node, "live/far")
        assert caught.value.code == "NetConnection.Connect.Rejected"
        async with aiohttp.ClientSession(f"http://{node.http_address}") as http:
            for path in ("/live/web.flv", "/live/web.m3u8"):
                async with http.get(path, allow_redirects=False) as response:
                    assert response.status == 307
                    assert response.headers["Location"] == "https://192.0.2.1/x.flv?a=1"
            async with http.get("/live/far.flv", allow_redirects=False) as response:
                assert response.status == 403 and "Location" not in response.headers
        assert node.server.counters.refused["sent_elsewhere"] == 4
    assert not back_end.of("call=play_done")


async def test_ffmpeg_plays_under_another_name(back_end: BackEnd, clip: Path, tmp_path: Path) -> None:
    back_end.answers["call=publish&"] = status(302, Location="real")
    back_end.answers["name=alias"] = status(301, Location="real")
    output = tmp_path / "played.flv"
    async with running(config(back_end.url, "nginx-rtmp")) as node:
        base = f"rtmp://{node.rtmp_address}/live"
        publisher = await asyncio.create_subprocess_exec(
            "ffmpeg", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy", "-f", "flv",
            f"{base}/key?secret=1", stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await back_end.until("call=publish&")
            player = await asyncio.create_subprocess_exec(
                "ffmpeg", "-loglevel", "error", "-i", f"{base}/alias", "-t", "1", "-c", "copy", str(output),
                stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:
                async with asyncio.timeout(30):
                    assert await player.wait() == 0
            finally:
                if player.returncode is None:
                    player.kill()
            assert [str(stream.key) for stream in node.server.hub.live()] == ["live/real"]
        finally:
            publisher.kill()
            await publisher.wait()
    assert output.stat().st_size > 10_000


async def test_the_connection_is_refused(back_end: BackEnd) -> None:
    back_end.answers["call=connect"] = status(403)
    async with running(config(back_end.url, "nginx-rtmp")) as node:
        with pytest.raises(RefusedError) as caught:
            await Client.connect(f"rtmp://{node.rtmp_address}/live/cam")
        assert caught.value.code == "NetConnection.Connect.Rejected"
        assert len(back_end.asked) == 1
