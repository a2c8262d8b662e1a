from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import pytest

from pyrtmp import Client, Hooks, RefusedError, Request, Server, StreamKey, StreamSettings, Timeouts, control
from pyrtmp.aio.publishing import yields
from pyrtmp.hooks import DESCRIPTION_CHARS
from pyrtmp.stream import Stream
from tests.pyrtmp.aio.net import Net, Peer, eventually, frame, journal

BAD_NAME = "NetStream.Publish.BadName"


async def test_a_second_publisher_is_refused_at_once_while_the_first_one_sends(net: Net) -> None:
    server = await net.server()
    first = await net.publisher(server)
    second = await net.peer(server)

    async def send() -> None:
        for n in range(10_000):
            await first.write(frame(n, key=n % 10 == 0))
            await asyncio.sleep(0.03)

    task = asyncio.create_task(send())
    started = monotonic()
    with pytest.raises(AssertionError, match="BadName"):
        await second.publish()
    assert monotonic() - started < StreamSettings().takeover_seconds
    task.cancel()
    assert server.counters.refused["publish"] == 1
    assert len(journal(server).of("refused")) == 1


async def test_one_connection_does_not_challenge_itself(net: Net) -> None:
    server = await net.server()
    first = await net.publisher(server)
    await first.command("createStream", transaction=3)
    await first.command("publish", "cam", "live", msid=2)
    await first.until_code(BAD_NAME, 1)
    assert not server.counters.takeovers


async def test_a_silent_publisher_loses_its_stream_and_viewers_stay(net: Net) -> None:
    server = await net.server(stream=StreamSettings(takeover_seconds=0.3))
    frozen = await net.publisher(server)
    await frozen.write(frame(0, key=True))
    player = await net.player(server)
    await player.until(lambda: player.numbers() == [0])
    started = monotonic()
    second = await net.publisher(server)
    assert monotonic() - started < StreamSettings().takeover_seconds
    await second.write(frame(1, key=True))
    await player.until(lambda: player.numbers() == [0, 1])
    assert server.counters.takeovers == 1
    await frozen.until_closed()
    assert BAD_NAME in frozen.codes()
    assert [r.get("code") for r in journal(server).of("displaced")] == [BAD_NAME]


async def test_viewers_are_kept_over_ten_restarts_and_time_goes_on(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    players = [await net.player(server), await net.player(server, msid=2)]
    for n in range(10):
        await publisher.write(frame(2 * n, key=True), frame(2 * n + 1))
        for player in players:
            await player.until(lambda player=player, n=n: player.numbers()[-1:] == [2 * n + 1])
        if n % 2:
            publisher.reset()
        else:
            publisher.sock.close()
        for player in players:
            await player.until(lambda player=player, n=n: player.signals().count(control.STREAM_EOF) == n + 1)
        publisher = await net.publisher(server)
        for player in players:
            await player.until(lambda player=player, n=n: player.signals().count(control.STREAM_BEGIN) == n + 2)
    for player in players:
        assert player.numbers() == list(range(20))
        times = [m.timestamp for m in player.media()]
        assert times == sorted(times)
    assert server.counters.plays["rtmp"] == 2


async def test_a_stream_ends_when_nobody_comes_back(net: Net) -> None:
    server = await net.server(stream=StreamSettings(grace_seconds=0.2))
    publisher = await net.publisher(server)
    player = await net.player(server)
    await publisher.write(frame(0, key=True))
    await player.until(player.numbers)
    await publisher.command("deleteStream", 1.0)
    await player.until_code("NetStream.Play.Stop")
    assert player.codes()[-2:] == ["NetStream.Play.UnpublishNotify", "NetStream.Play.Stop"]
    assert control.STREAM_EOF in player.signals()


async def test_a_storm_of_publishers_has_one_winner(net: Net) -> None:
    server = await net.server()
    for _ in range(4):
        peers = [await net.peer(server) for _ in range(20)]
        winners: list[Peer] = []

        async def publish(peer: Peer, winners: list[Peer] = winners) -> None:
            try:
                await peer.publish()
                winners.append(peer)
                for n in range(10_000):
                    await peer.write(frame(n, key=n % 10 == 0))
                    await asyncio.sleep(0.03)
            except (AssertionError, OSError):
                await peer.until_closed()

        tasks = [asyncio.create_task(publish(peer)) for peer in peers]
        await eventually(lambda peers=peers: sum(peer.closed for peer in peers) == 19)
        assert len(winners) == 1
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for peer in peers:
            peer.reset()
        await eventually(lambda: not server.hub.live())
        await eventually(lambda: not server.clients)
    assert not server.counters.takeovers


async def test_kick_ends_a_publisher_and_frees_the_name_at_once(net: Net) -> None:
    server = await net.server()
    publisher = await net.publisher(server)
    (client,) = server.clients.values()
    assert (client.role, client.key) == ("publish", StreamKey("live", "cam"))
    client.kick()
    assert not server.hub.live()
    await publisher.until_closed()
    await net.publisher(server)


async def test_data_alone_does_not_keep_a_publisher(net: Net) -> None:
    from pyrtmp import Message, amf

    server = await net.server(timeouts=Timeouts(media_idle=0.3))
    publisher = await net.publisher(server)
    started = monotonic()
    while not publisher.closed and monotonic() - started < 3:
        await publisher.write(Message(18, 0, 1, amf.encode0("onText", 1)))
        try:
            await asyncio.wait_for(publisher.read(), 0.05)
        except TimeoutError:
            pass
    assert server.counters.refused["media_timeout"] == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_hook_may_refuse(net: Net, kind: str) -> None:
    asked: list[Request] = []

    def refuse(request: Request) -> None:
        asked.append(request)
        raise RefusedError("NetStream.Publish.Denied", "no")

    async def refuse_later(request: Request) -> None:
        await asyncio.sleep(0)
        refuse(request)

    server = await net.server(hooks=Hooks(on_publish=refuse if kind == "sync" else refuse_later))
    peer = await net.peer(server)
    with pytest.raises(AssertionError, match=r"NetStream\.Publish\.Denied"):
        await peer.publish("cam?token=x")
    assert asked[0].key == ("live", "cam") and asked[0].query == "token=x"


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_hook_may_have_it_published_under_another_name(net: Net, kind: str) -> None:
    def rename(request: Request) -> StreamKey:
        return StreamKey("other", "name")

    async def rename_later(request: Request) -> StreamKey:
        await asyncio.sleep(0)
        return rename(request)

    done: list[Request] = []
    hook = rename if kind == "sync" else rename_later
    server = await net.server(hooks=Hooks(on_publish=hook, on_publish_done=done.append))
    peer = await net.publisher(server)
    assert [stream.key for stream in server.hub.live()] == [("other", "name")]
    peer.reset()
    await eventually(lambda: done)
    assert done[0].key == ("live", "cam")


async def test_what_a_client_said_when_it_connected_is_known_later(net: Net) -> None:
    asked: list[Request] = []
    server = await net.server(hooks=Hooks(on_publish=asked.append))
    said = {"pageUrl": "p" * 5000, "flashVer": 7.0, "swfUrl": "", "tcUrl": "rtmp://name/live", "other": "x"}
    async with await Client.connect(f"rtmp://127.0.0.1:{server.addresses[0][1]}/live/cam", **said) as client:
        await client.publish()
    assert asked[0].parameters == {"tcUrl": "rtmp://name/live", "pageUrl": "p" * DESCRIPTION_CHARS}


@pytest.mark.parametrize("hook", ["on_connect", "on_publish"])
async def test_a_hook_that_raises_refuses_and_is_logged(net: Net, hook: str) -> None:
    server = await net.server(hooks=Hooks(**{hook: lambda request: 1 / 0}))
    peer = await net.peer(server)
    with pytest.raises(AssertionError):
        await peer.publish()
    assert len(journal(server).of("hook_failed")) == 1
    assert not server.hub.live()


async def test_done_hooks_that_raise_hurt_nobody(net: Net) -> None:
    calls: list[str] = []

    def publish_done(request: Request) -> None:
        calls.append("publish")
        raise ValueError

    def play_done(request: Request) -> None:
        calls.append("play")
        raise ValueError

    server = await net.server(hooks=Hooks(on_publish_done=publish_done, on_play_done=play_done))
    publisher = await net.publisher(server)
    player = await net.player(server)
    publisher.reset()
    player.reset()
    await eventually(lambda: not server.clients)
    assert sorted(calls) == ["play", "publish"]


async def test_a_slow_hook_delays_only_its_own_client(net: Net) -> None:
    release = asyncio.Event()

    async def slow(request: Request) -> None:
        if request.key and request.key.name == "slow":
            await release.wait()

    server = await net.server(hooks=Hooks(on_publish=slow))
    peer = await net.peer(server)
    task = asyncio.create_task(peer.publish("slow"))
    fast = await net.publisher(server, "fast")
    player = await net.player(server, "fast")
    await fast.write(frame(0, key=True))
    await player.until(player.numbers)
    assert server.hub.find("live", "slow") is None
    release.set()
    await task
    await peer.write(frame(0, key=True))
    await eventually(lambda: server.hub.find("live", "slow"))


async def test_a_hook_that_never_answers_has_a_deadline(net: Net) -> None:
    async def never(request: Request) -> None:
        await asyncio.Event().wait()

    server = await net.server(hooks=Hooks(on_publish=never), timeouts=Timeouts(request=0.2))
    peer = await net.peer(server)
    with pytest.raises(AssertionError):
        await peer.publish()
    assert server.counters.refused["hook_timeout"] == 1


async def test_what_is_pipelined_behind_a_slow_hook_is_bounded(net: Net) -> None:
    async def never(request: Request) -> None:
        await asyncio.Event().wait()

    server = await net.server(hooks=Hooks(on_publish=never))
    peer = await net.peer(server)
    await peer.connect()
    await peer.command("createStream", transaction=2)
    await peer.command("publish", "cam", "live", msid=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            for n in range(1000):
                await peer.write(frame(n, 100_000))
    (client,) = server.clients.values()
    assert client.bytes_in < 1_000_000


# Where other processes take publishers too


class FakeClaims:
    """Grants what it is told to; remembers what was claimed and released."""

    def __init__(self, seen: tuple[int, float] | None = None) -> None:
        self.seen = seen
        self.granted = asyncio.Event()
        self.granted.set()
        self.refusal: RefusedError | None = None
        self.claimed: list[StreamKey] = []
        self.cancelled = 0
        self.released: list[tuple[StreamKey, int]] = []

    async def claim(self, key: StreamKey, *, copy: bool = False) -> tuple[int, float] | None:
        self.claimed.append(key)
        try:
            await self.granted.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.refusal is not None:
            raise self.refusal
        return self.seen

    def release(self, key: StreamKey, time: int) -> None:
        self.released.append((key, time))


CAM = StreamKey("live", "cam")


async def claiming(net: Net, seen: tuple[int, float] | None = None, **options: Any) -> tuple[Server, FakeClaims]:
    server = await net.server(**options)
    claims = server.claims = FakeClaims(seen)
    return server, claims


async def ask_to_publish(net: Net, server: Server) -> Peer:
    """Does not wait for the answer, and sends a picture behind the question."""
    peer = await net.peer(server)
    await peer.connect()
    await peer.command("createStream", transaction=2)
    await peer.command("publish", "cam", "live", msid=1)
    await peer.write(frame(7, key=True))
    return peer


def challenges(client: Any) -> bool:
    """Whether the connection waits for somebody to let go of a stream."""
    return client.publishing._task is not None


async def test_a_publisher_begins_when_its_claim_is_granted_and_nothing_it_sent_is_lost(net: Net) -> None:
    server, claims = await claiming(net)
    claims.granted.clear()
    player = await net.peer(server)
    await player.play()
    publisher = await ask_to_publish(net, server)
    await eventually(lambda: claims.claimed == [CAM])
    assert not server.hub.live()
    claims.granted.set()
    await publisher.until_code("NetStream.Publish.Start")
    await player.until(lambda: player.numbers() == [7])
    assert not claims.released


async def test_a_publisher_goes_on_where_another_process_had_got(net: Net) -> None:
    server, _ = await claiming(net, (500_000, monotonic()))
    player = await net.peer(server)
    await player.play()
    await ask_to_publish(net, server)
    await player.until(player.numbers)
    assert 500_000 < player.media()[-1].timestamp < 510_000


@pytest.mark.parametrize("end", ["unpublish", "reset", "kick", "operator"])
async def test_a_claim_is_released_once_with_the_time_reached(net: Net, end: str) -> None:
    server, claims = await claiming(net)
    publisher = await net.publisher(server)
    player = await net.player(server)
    await publisher.write(frame(5, key=True), frame(6))
    await player.until(lambda: player.numbers() == [5, 6])
    (stream,) = server.hub.live()
    if end == "unpublish":
        await publisher.command("deleteStream", 1.0)
    elif end == "reset":
        publisher.reset()
    elif end == "kick":
        next(client for client in server.clients.values() if client.role == "publish").kick()
    else:
        server.hub.end(stream, monotonic())
    await eventually(lambda: claims.released)
    publisher.sock.close()
    await eventually(lambda: all(client.role != "publish" for client in server.clients.values()))
    assert claims.claimed == [CAM] and claims.released == [(CAM, 240)]


async def test_a_claim_that_is_denied_refuses_the_publisher(net: Net) -> None:
    server, claims = await claiming(net)
    claims.refusal = RefusedError(BAD_NAME, "somebody else has it")
    peer = await net.peer(server)
    with pytest.raises(AssertionError, match="BadName"):
        await peer.publish()
    assert server.counters.refused["publish"] == 1
    assert claims.released == [] and not len(server.hub)


async def test_a_publisher_that_leaves_before_the_answer_claims_nothing(net: Net) -> None:
    server, claims = await claiming(net)
    claims.granted.clear()
    peer = await ask_to_publish(net, server)
    await eventually(lambda: claims.claimed)
    peer.reset()
    # Its socket is not read while it waits; a deadline or a kick finds it.
    for client in list(server.clients.values()):
        client.kick()
    await eventually(lambda: claims.cancelled == 1)
    claims.granted.set()
    await eventually(lambda: not server.clients)
    assert claims.released == [] and not len(server.hub)


async def test_a_silent_publisher_here_is_displaced_before_its_successor_claims(net: Net) -> None:
    server, claims = await claiming(net, stream=StreamSettings(takeover_seconds=0.2))
    first = await net.publisher(server)
    await first.write(frame(3, key=True))
    second = await net.publisher(server)
    assert claims.claimed == [CAM, CAM]
    assert [key for key, _ in claims.released] == [CAM]
    assert server.counters.takeovers == 1
    await second.write(frame(4, key=True))
    await first.until_closed()
    assert len(claims.released) == 1


async def test_a_live_publisher_here_keeps_its_stream_and_nothing_is_claimed(net: Net) -> None:
    server, claims = await claiming(net)
    first = await net.publisher(server)
    second = await ask_to_publish(net, server)
    await eventually(lambda: any(challenges(client) for client in server.clients.values()))
    await first.write(frame(0, key=True))
    await second.until_code(BAD_NAME)
    assert claims.claimed == [CAM] and claims.released == []


async def test_of_two_that_are_granted_the_same_stream_one_begins(net: Net) -> None:
    """Another process decides between processes; within one it is the hub's matter."""
    server, claims = await claiming(net)
    claims.granted.clear()
    peers = [await ask_to_publish(net, server) for _ in range(2)]
    await eventually(lambda: len(claims.claimed) == 2)
    claims.granted.set()
    await eventually(lambda: len(server.hub.live()) == 1)
    for peer in peers:
        await peer.until(lambda peer=peer: peer.codes()[1:])
    assert sorted(peer.codes()[1] for peer in peers) == [BAD_NAME, "NetStream.Publish.Start"]
    assert claims.released == []


class FakePublisher:
    id = "x"

    def __init__(self) -> None:
        self.displacements: list[str] = []

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        self.displacements.append(code)


async def test_yields_says_whether_the_publisher_lets_go(net: Net) -> None:
    server = await net.server(stream=StreamSettings(takeover_seconds=0.25))
    hub = server.hub

    # Silent: it loses the stream.
    silent = FakePublisher()
    stream = hub.publish(CAM, silent, monotonic())
    asked = asyncio.gather(*(yields(stream, hub, server.counters) for _ in range(3)))
    assert await asked == [True] * 3
    assert silent.displacements == [BAD_NAME] and server.counters.takeovers == 1

    # It sends: refused, as soon as that is seen.
    alive = FakePublisher()
    stream = hub.publish(CAM, alive, monotonic())
    challenge = asyncio.ensure_future(yields(stream, hub, server.counters))
    await asyncio.sleep(0)
    stream.last_message = monotonic()
    assert await challenge is False and stream.publisher is alive

    # It leaves meanwhile: free.  Another one is there by then: not free.
    stream.outlets[_Nobody()] = None
    challenge = asyncio.ensure_future(yields(stream, hub, server.counters))
    await asyncio.sleep(0)
    hub.unpublish(stream, alive, monotonic())
    assert await challenge is True
    stream = hub.publish(CAM, alive, monotonic())
    challenge = asyncio.ensure_future(yields(stream, hub, server.counters))
    await asyncio.sleep(0)
    hub.unpublish(stream, alive, monotonic())
    other = hub.publish(CAM, FakePublisher(), monotonic())
    assert await challenge is (other is not stream)
    assert await yields(hub.open(StreamKey("live", "other"), 0.0), hub, server.counters) is True


class _Nobody:
    def serve(self) -> None: ...

    def gone(self) -> None: ...
