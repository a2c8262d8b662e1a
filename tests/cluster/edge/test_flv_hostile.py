"""``cluster.edge.flv``: upstreams that misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import count
from time import monotonic

import pytest
from structlog.testing import capture_logs

from cluster.edge import attempt, flv
from cluster.edge.upstreams import Upstream
from pyrtmp import Limits
from tests.cluster.edge.nodes import FLV, GOP, OK, Fake, Nodes, Session, address, ended, over_http, tags
from tests.pyrtmp.aio.net import eventually, frame

Misbehave = Callable[[Fake, Session], Awaitable[None]]


async def hang_up(fake: Fake, session: Session) -> None:
    """Say nothing, and close."""


async def hang(fake: Fake, session: Session) -> None:
    await session.gone()


def says(*parts: bytes) -> Misbehave:
    """Sends that, and nothing more."""

    async def answer(fake: Fake, session: Session) -> None:
        await session.request()
        session.writer.write(b"".join(parts))
        await session.gone()

    return answer


def goes_on(first: bytes, part: Callable[[int], bytes], pause: float = 0.0) -> Misbehave:
    """Sends that, and then more for as long as it is listened to."""

    async def answer(fake: Fake, session: Session) -> None:
        await session.request()
        session.writer.write(first)
        for number in count():
            session.writer.write(part(number))
            await session.writer.drain()
            await asyncio.sleep(pause)

    return answer


async def redirect(fake: Fake, session: Session) -> None:
    """To itself."""
    await session.request()
    url = str(over_http(fake)).encode()
    session.writer.write(b"HTTP/1.1 302 Found\r\nLocation: %s/live/cam.flv\r\nContent-Length: 0\r\n\r\n" % url)
    await session.gone()


def kin(value: object) -> bytes:
    """An answer that says that of the stream."""
    said = value if isinstance(value, bytes) else json.dumps(value).encode()
    return OK[:-2] + b"X-Pyrtmp-Kin: " + said + b"\r\n\r\n" + FLV


NO_FRAMES = FLV[13:]
KEY = tags(frame(7, key=True))
TOO_LONG = b"\x09\xff\xff\xff" + bytes(7)
NEVER_ENDS = b"\x09" + (1 << 20).to_bytes(3, "big") + bytes(7)

BAD: dict[str, Misbehave] = {
    "closes": hang_up,
    "hangs": hang,
    "no HTTP": says(bytes(range(256)) * 1000),
    "a header without end": goes_on(OK[:17], lambda number: b"X-%d: %s\r\n" % (number, bytes(100).hex().encode())),
    "a line without end": goes_on(OK[:17] + b"X: ", lambda number: b"x" * 1000),
    "a header that drips": goes_on(OK[:17], lambda number: b"x", 0.01),
    "more to come": goes_on(b"", lambda number: b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
    "redirects": redirect,
    "404": says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"),
    "503": says(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
    "nothing": says(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "ended at once": says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "a page": says(OK, b"<!DOCTYPE html><html>" * 100),
    "garbage": says(OK, FLV, bytes(range(256)) * 1000),
    "bad chunks": says(OK[:-2], b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n", FLV),
    "a tag too long": says(OK, FLV, TOO_LONG),
    "a tag without end": goes_on(OK + FLV + NEVER_ENDS, lambda number: b"x", 0.01),
    "stalls": says(OK + FLV),
    "headers only": goes_on(OK + FLV, lambda number: NO_FRAMES, 0.002),
    "floods": goes_on(OK + FLV, lambda number: NO_FRAMES * 500),
    "a circle": says(kin({"node": "fake", "hops": "a edge alone fake", "lineage": "L"}), KEY),
    "too far away": says(kin({"node": "fake", "hops": "a b c d e f g h"}), KEY),
    "a liar": says(kin({"node": ["x"], "hops": 5.0, "lineage": "\0" * 100, "wait": {}})),
    "no JSON": says(kin(b"[" * 5000)),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_the_next_one_is_used(nodes: Nodes, monkeypatch: pytest.MonkeyPatch, bad: Misbehave) -> None:
    """And the bad one is let go, within its deadlines also where there is no other."""
    usual = attempt.CONNECT_SECONDS
    monkeypatch.setattr(attempt, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(attempt, "PLAY_SECONDS", 0.2)
    fake = await nodes.fake("accept", bad)
    origin = await nodes.origin()
    alone = await nodes.edge(over_http(fake), node="alone")
    edge = await nodes.edge(over_http(fake), address(origin))
    source = await nodes.source(origin)
    await source.pictures(GOP)
    asked = monotonic()
    lonely = await nodes.peer(alone.server)
    await lonely.play()
    player = await nodes.watch(edge)
    assert monotonic() - asked < usual
    assert player.numbers()[0] == 0
    # Every connection is over when its time is: then there is another.
    before = fake.connections
    await eventually(lambda: fake.connections > before)
    assert fake.open <= 1
    assert not alone.server.hub.live() and not lonely.numbers()
    lonely.sock.close()
    await ended(alone)
    await eventually(lambda: not fake.open)


async def test_what_is_too_long_is_known_before_it_comes(nodes: Nodes) -> None:
    fake = await nodes.fake("accept", says(OK, FLV, TOO_LONG))
    edge = await nodes.edge(over_http(fake), limits=Limits(max_message_bytes=0xFFFFFE))
    with capture_logs() as logs:
        player = await nodes.peer(edge.server)
        await player.play()
        await eventually(lambda: any(line["event"] == "upstream_failed" for line in logs))
    (error,) = [line["error"] for line in logs if line["event"] == "upstream_failed"]
    assert error == f"an FLV tag of {0xFFFFFF} bytes is too long"


@pytest.mark.parametrize("way", ["a tag without end", "nothing"])
async def test_one_that_stalls_after_it_was_chosen_is_let_go(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(flv, "STALL_SECONDS", 0.3)
    start = OK + FLV + tags(frame(0, key=True), frame(1))
    stall = goes_on(start + NEVER_ENDS, lambda number: b"x", 0.01) if way != "nothing" else says(start)
    fake = await nodes.fake("accept", stall)
    edge = await nodes.edge(over_http(fake))
    with capture_logs() as logs:
        player = await nodes.watch(edge)
        await eventually(lambda: fake.connections > 1)
    assert next(line["error"] for line in logs if line["event"] == "upstream_lost") == "no answer in time"
    assert not player.closed


async def test_one_that_breaks_after_it_was_chosen_hurts_itself_only(nodes: Nodes) -> None:
    fake = await nodes.fake("accept", says(OK, FLV, tags(frame(0, key=True), frame(1)), bytes(100)))
    origin = await nodes.origin()
    edge = await nodes.edge(over_http(fake), await nodes.http(origin))
    source = await nodes.source(origin)
    source.number = 100
    await source.pictures(GOP)
    player = await nodes.peer(edge.server)
    await player.play()
    await player.until(lambda: player.numbers()[-1:] == [100 + GOP - 1])


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 \x1b[31m evil\r\n\r\n", OK[:17] + b"X\x1b evil: 1\r\n\r\n", OK + b"evil\x1b", b"\0evil",
     OK[:17] + b"Transfer-Encoding: chunked\r\n\r\n1\r\nF\r\nevil\x1b\r\n"],
)
async def test_what_a_bad_one_says_does_not_reach_the_log(nodes: Nodes, answer: bytes) -> None:
    """Nor does a viewer's token."""
    fake = await nodes.fake("accept", says(answer))
    edge = await nodes.edge(over_http(fake))
    with capture_logs() as logs:
        player = await nodes.peer(edge.server)
        await player.play("cam?token=secret")
        await eventually(lambda: any(line["event"] == "upstream_failed" for line in logs))
    assert not [word for word in ("evil", "secret", "\x1b") if word in str(logs)]


async def test_only_what_was_named_is_asked(nodes: Nodes) -> None:
    """At its path, whatever a query or a redirection says."""
    heard: list[str] = []
    other = await nodes.fake("accept", hang)

    async def elsewhere(fake: Fake, session: Session) -> None:
        heard.append(await session.request())
        url = str(over_http(other)).encode()
        session.writer.write(b"HTTP/1.1 307 Moved\r\nLocation: %s/live/cam.flv\r\nContent-Length: 0\r\n\r\n" % url)
        await session.gone()

    fake = await nodes.fake("accept", elsewhere)
    edge = await nodes.edge(Upstream(*fake.addresses[0], scheme="http", prefix="/a/b"))
    player = await nodes.peer(edge.server)
    await player.play("cam?#@evil:99/../x&url=http://evil%0d%0a")
    await eventually(lambda: len(heard) >= 2)
    lines = heard[0].split("\r\n")
    assert lines[0] == "GET /a/b/live/cam.flv?%23@evil:99/../x&url=http://evil%0d%0a HTTP/1.1"
    (said,) = [line.partition(": ")[2] for line in lines if line.startswith("X-Pyrtmp-Kin: ")]
    kin = json.loads(said)
    assert kin.pop("session").startswith("pull-") and kin == {"node": "edge", "hops": "edge", "wait": False}
    assert not other.connections
