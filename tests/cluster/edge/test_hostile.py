"""``cluster.edge``: upstreams that misbehave."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import pytest

from cluster.edge import attempt
from cluster.edge.pull import FIRST_PAUSE
from pyrtmp.chunk import encode
from pyrtmp.message import DATA_AMF0, VIDEO, Message
from tests.cluster.edge.nodes import GOP, Fake, Nodes, Session, ended, hang, refusal
from tests.pyrtmp.aio.net import SEQUENCE, eventually, frame

Misbehave = Callable[[Fake, Session], Awaitable[None]]


async def garbage(fake: Fake, session: Session) -> None:
    session.writer.write(bytes(range(256)) * 1000)
    await session.gone()


async def endless(fake: Fake, session: Session) -> None:
    """A message that is announced and never complete, chunk by chunk."""
    session.writer.write(b"\x06" + bytes(3) + (4 << 20).to_bytes(3, "big") + bytes((VIDEO,)) + struct.pack("<I", 1))
    session.writer.write(bytes(session.chunk_size))
    for _ in range(20):
        session.writer.write(b"\xc6" + b"x")
        await asyncio.sleep(0.05)
    await session.gone()


async def too_long(fake: Fake, session: Session) -> None:
    session.writer.write(b"\x06" + bytes(3) + b"\xff\xff\xff" + bytes((VIDEO,)) + struct.pack("<I", 1) + bytes(99))
    await session.gone()


async def headers_only(fake: Fake, session: Session) -> None:
    while not session.writer.is_closing():
        session.send(Message(VIDEO, 0, 1, SEQUENCE), Message(DATA_AMF0, 0, 1, b"\x02\x00\x01x"))
        await session.writer.drain()
        await asyncio.sleep(0.002)


async def flood(fake: Fake, session: Session) -> None:
    """Encoded once: the loop is also that of those who are flooded."""
    message = Message(VIDEO, 0, 1, SEQUENCE)
    messages = b"".join(encode(message, 6, chunk_size=session.chunk_size)) * 500
    while not session.writer.is_closing():
        session.writer.write(messages)
        await session.writer.drain()
        await asyncio.sleep(0)


async def refuse(fake: Fake, session: Session) -> None:
    session.send(refusal(), csid=3)
    await session.gone()


async def redirect(fake: Fake, session: Session) -> None:
    """To itself, in the way of Flash Media Server."""
    url = f"rtmp://127.0.0.1:{fake.addresses[0][1]}/live"
    session.send(refusal(ex={"code": 302.0, "redirect": url}, redirect=url), csid=3)
    await session.gone()


async def not_found(fake: Fake, session: Session) -> None:
    session.rtmp.refuse_play(session.msid, "NetStream.Play.StreamNotFound", "no")
    session.flush()
    await session.gone()


async def circle(fake: Fake, session: Session) -> None:
    """It says that it has the stream from whoever asks."""
    more = {"pyrtmp": {"node": "fake", "hops": "a edge fake", "lineage": "L"}}
    session.rtmp.accept_play(session.msid, more=more)
    session.flush()
    session.send(Message(VIDEO, 0, 1, SEQUENCE), frame(7, key=True))
    await session.gone()


async def liar(fake: Fake, session: Session) -> None:
    more: dict[str, Any] = {"pyrtmp": {"node": ["x"], "hops": 5.0, "lineage": "\0" * 100, "wait": {}}}
    session.rtmp.accept_play(session.msid, more=more)
    session.flush()
    await session.gone()


async def ended_at_once(fake: Fake, session: Session) -> None:
    session.rtmp.status(session.msid, "NetStream.Play.Stop", "over")
    session.flush()
    await session.gone()


BAD: list[tuple[str, Misbehave | None]] = [
    *((stage, None) for stage in ("accept", "hello", "connect", "play", "start")),
    *((stage, hang) for stage in ("accept", "hello", "connect", "play", "start")),
    *((stage, garbage) for stage in ("accept", "hello", "connect", "start")),
    ("start", endless), ("start", too_long), ("start", headers_only), ("start", flood), ("start", ended_at_once),
    ("connect", refuse), ("connect", redirect), ("play", not_found), ("play", circle), ("play", liar),
]  # fmt: skip


@pytest.mark.parametrize(
    "stage, then", BAD, ids=[f"{stage}-{then.__name__ if then else 'close'}" for stage, then in BAD]
)
async def test_the_next_one_is_used(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, stage: str, then: Misbehave | None
) -> None:
    """And the bad one is let go, within its deadlines also where there is no other."""
    usual = attempt.CONNECT_SECONDS
    monkeypatch.setattr(attempt, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(attempt, "PLAY_SECONDS", 0.3)
    fake = await nodes.fake(stage, then)
    origin = await nodes.origin()
    alone = await nodes.edge(fake)
    edge = await nodes.edge(fake, origin)
    source = await nodes.source(origin)
    await source.pictures(GOP)
    asked = monotonic()
    lonely = await nodes.peer(alone.server)
    await lonely.play()
    player = await nodes.watch(edge)
    assert monotonic() - asked < usual
    assert player.numbers()[0] == 0
    # One connection at a time, and every one is over when its time is: then, after a pause, there is another.
    connections = 2
    assert fake.connections <= connections + (monotonic() - asked) / (0.8 * FIRST_PAUSE)
    await eventually(lambda: fake.connections >= connections + 1)
    assert fake.open <= 1
    assert not alone.server.hub.live()
    lonely.sock.close()
    await ended(alone)
    await eventually(lambda: not fake.open)


async def test_only_what_was_named_is_dialled(nodes: Nodes) -> None:
    other = await nodes.fake("accept")

    async def elsewhere(fake: Fake, session: Session) -> None:
        url = f"rtmp://127.0.0.1:{other.addresses[0][1]}/live/cam"
        session.send(refusal(ex={"code": 302.0, "redirect": url}, redirect=url, tcUrl=url), csid=3)
        await session.gone()

    fake = await nodes.fake("connect", elsewhere)
    edge = await nodes.edge(fake)
    player = await nodes.peer(edge.server)
    await player.play(f"cam?origin=127.0.0.1:{other.addresses[0][1]}")
    await eventually(lambda: fake.connections >= 2)
    assert not other.connections


async def test_one_that_floods_after_it_was_chosen_hurts_itself_only(nodes: Nodes) -> None:
    async def broken(fake: Fake, session: Session) -> None:
        session.send(Message(VIDEO, 0, 1, SEQUENCE), frame(0, key=True), frame(1))
        await asyncio.sleep(0.1)
        await garbage(fake, session)

    fake = await nodes.fake("start", broken)
    origin = await nodes.origin()
    edge = await nodes.edge(fake, origin)
    player = await nodes.watch(edge)
    source = await nodes.source(origin)
    source.number = 100
    await source.pictures(GOP)
    await player.until(lambda: player.numbers()[-1] == 100 + GOP - 1)
    assert player.numbers() == [0, 1, *range(100, 100 + GOP)]
