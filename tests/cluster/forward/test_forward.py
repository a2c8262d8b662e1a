from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from cluster.forward import Forwarder, ForwardFacts, PushSettings, Target, parse_target
from cluster.forward.backoff import Backoff
from cluster.forward.push import explain
from config.ports import free_ports
from pyrtmp import Client, Hooks, Message, RefusedError, Request, Server, StreamSettings, amf
from pyrtmp.aio.connection import Connection
from pyrtmp.errors import ChunkError
from pyrtmp.lane import Lane
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO
from pyrtmp.stream import Stream
from tests.cluster.forward.conftest import QUICK, Forwarding
from tests.pyrtmp.aio.net import AUDIO_SEQUENCE, SEQUENCE, Net, Peer, eventually, frame, journal, sound

METADATA = Message(DATA_AMF0, 0, 1, amf.encode0("onMetaData", {"width": 1280.0, "videocodecid": 7.0}))


def at(server: Server) -> Target:
    return parse_target(f"127.0.0.1:{port(server)}")


def port(server: Server) -> int:
    return server.addresses[0][1]


def content(peer: Peer) -> list[tuple[int, int, bytes]]:
    """What a player got of the stream."""
    return [(m.type, m.timestamp, m.payload) for m in peer.messages if m.type in (AUDIO, VIDEO, DATA_AMF0)]


def only(forwarder: Forwarder) -> ForwardFacts:
    (facts,) = forwarder.facts()
    return facts


async def live(forwarder: Forwarder, count: int = 1) -> None:
    await eventually(lambda: [each.state for each in forwarder.facts()].count("live") == count)


def avc(start: int) -> list[Message]:
    """Metadata in the middle too, B-frames, sound, a cue point, a picture of several chunks."""
    messages = [METADATA, Message(VIDEO, 0, 1, SEQUENCE), Message(AUDIO, 0, 1, AUDIO_SEQUENCE)]
    for number in range(60):
        picture = frame(number, 150_000 if number % 20 == 0 else 700, key=number % 20 == 0)
        shift = (80, 0, 40)[number % 3].to_bytes(3, "big")
        picture = Message(VIDEO, number * 40 + start, 1, picture.payload[:2] + shift + picture.payload[5:])
        messages += [picture, Message(AUDIO, number * 40 + 7 + start, 1, sound(number).payload)]
        if number == 30:
            messages.append(Message(DATA_AMF0, picture.timestamp, 1, amf.encode0("onCuePoint", {"name": "here"})))
            messages.append(Message(DATA_AMF0, picture.timestamp, 1, amf.encode0("onMetaData", {"width": 640.0})))
    return messages


def hevc(start: int) -> list[Message]:
    """Enhanced RTMP, as OBS sends it."""
    messages = [Message(VIDEO, start, 1, b"\x90hvc1" + bytes(range(60)))]
    for number in range(60):
        head = b"\x91hvc1\0\0\x50" if number % 20 == 0 else b"\xa1hvc1\0\0\x28" if number % 2 else b"\xa3hvc1"
        messages.append(Message(VIDEO, number * 40 + start, 1, head + bytes((number,)) * 900))
    return messages


@pytest.mark.parametrize("messages", [avc, hevc])
@pytest.mark.parametrize("start", [0, 1_000_000, (1 << 32) - 1000])
async def test_players_at_the_target_get_what_those_at_the_source_get(
    net: Net, forward: Forwarding, messages: Any, start: int
) -> None:
    source, target = await net.server(), await net.server()
    forwarder = forward(source, at(target))
    here, there = await net.peer(source), await net.peer(target)
    await here.play()
    await there.play()
    publisher = await net.peer(source)
    await publisher.publish()
    await live(forwarder)
    sent = [Message(m.type, m.timestamp & 0xFFFFFFFF, 1, m.payload) for m in messages(start)]
    await publisher.write(*sent[:5])
    await here.until(here.media)  # else both would begin with the newest group of all this
    await there.until(there.media)
    for index in range(5, len(sent), 7):
        await publisher.write(*sent[index : index + 7])
    last = sent[-1].payload
    await here.until(lambda: here.messages[-1].payload == last)
    await there.until(lambda: there.messages[-1].payload == last)
    assert content(there) == content(here)
    assert len(content(here)) >= len(sent)
    facts = only(forwarder)
    assert (facts.stream, facts.state, facts.error, facts.dropped) == ("live/cam", "live", "", 0)
    assert facts.target == f"rtmp://127.0.0.1:{port(target)}/live/cam"
    assert facts.messages >= len(sent)
    assert facts.bytes > sum(len(m.payload) for m in sent)
    (stream,) = target.hub.live()
    assert stream.metadata == ({"width": 640.0} if messages is avc else {})


async def test_connect_says_where_the_stream_came_through(net: Net, forward: Forwarding) -> None:
    asked: list[Request] = []
    source, target = await net.server(), await net.server(hooks=Hooks(on_connect=asked.append))
    forwarder = forward(source, at(target), node="b", hops=lambda stream: ["a"])
    await net.publisher(source)
    await live(forwarder)
    (stream,) = source.hub.live()
    said = asked[0].parameters["pyrtmp"]
    assert said.pop("birth").startswith(f"{stream.birth.wall}.")  # type: ignore[union-attr]
    assert said == {
        "node": "b", "hops": "a b", "lineage": stream.lineage, "copy": True, "session": stream.source_id,
    }  # fmt: skip


async def test_a_late_target_begins_with_a_key_frame(net: Net, forward: Forwarding) -> None:
    source = await net.server()
    (late,) = free_ports(1)
    forwarder = forward(source, parse_target(f"127.0.0.1:{late}"))
    publisher = await net.publisher(source)
    await publisher.write(frame(0, key=True), frame(1), frame(2, key=True), frame(3))
    await eventually(lambda: only(forwarder).state == "waiting" and only(forwarder).attempts > 2)
    assert "refused" in only(forwarder).error.lower() or "Connect call failed" in only(forwarder).error
    assert len(journal(source).of("forward_failed")) == 1  # told once
    target = await net.server()
    await target.start("127.0.0.1", late)
    player = await net.player(target)
    await publisher.write(frame(4))
    await player.until(lambda: player.numbers() == [2, 3, 4])
    assert player.media()[0].payload == SEQUENCE
    assert only(forwarder).reconnects == 0


async def test_a_target_that_comes_back_begins_with_a_key_frame(net: Net, forward: Forwarding) -> None:
    source, first = await net.server(), await net.server()
    place = port(first)
    forwarder = forward(source, at(first))
    publisher = await net.publisher(source)
    await publisher.write(frame(0, key=True), frame(1))
    await live(forwarder)
    await first.close()
    await eventually(lambda: only(forwarder).state != "live")
    await publisher.write(frame(2), frame(3, key=True), frame(4))
    second = await net.server()
    await second.start("127.0.0.1", place)
    player = await net.player(second)
    await publisher.write(frame(5))
    await player.until(lambda: player.numbers() == [3, 4, 5])
    assert player.media()[0].payload == SEQUENCE
    facts = only(forwarder)
    assert (facts.state, facts.reconnects) == ("live", 1)


async def test_viewers_at_the_target_outlive_a_lost_connection(net: Net, forward: Forwarding) -> None:
    source, target = await net.server(), await net.server()
    forwarder = forward(source, at(target))
    publisher = await net.publisher(source)
    await publisher.write(frame(0, key=True), frame(1))
    player = await net.player(target)
    await player.until(lambda: player.numbers() == [0, 1])
    next(client for client in target.clients.values() if client.role == "publish").kick()
    await publisher.write(frame(2), frame(3, key=True), frame(4))
    await player.until(lambda: player.numbers()[-1:] == [4])
    numbers = player.numbers()
    # 2 may have gone out before the loss, or with the next connection, whose group began with 0
    assert numbers[numbers.index(1) + 1] in (0, 2, 3)
    assert numbers[-2:] == [3, 4]
    times = [m.timestamp for m in player.media()]
    assert times == sorted(times)
    assert only(forwarder).reconnects == 1


async def test_a_target_that_never_answers_costs_nothing(net: Net, forward: Forwarding) -> None:
    source = await net.server()
    with socket.socket() as blackhole:
        blackhole.bind(("127.0.0.1", 0))
        blackhole.listen()
        target = parse_target(f"127.0.0.1:{blackhole.getsockname()[1]}")
        forwarder = forward(source, target, settings=replace(QUICK, connect=0.1))
        publisher, player = await net.watched(source)
        for number in range(1, 50):
            await publisher.write(frame(number))
        await player.until(lambda: player.numbers() == list(range(50)))
        await eventually(lambda: only(forwarder).attempts > 1)
        assert only(forwarder).error == "timed out"
        assert only(forwarder).messages == 0


async def test_a_target_that_stops_taking_is_left_behind_and_tried_again(net: Net, forward: Forwarding) -> None:
    source, target, healthy = await net.server(), await net.server(), await net.server()
    clients: list[Client] = []

    async def connect(url: str, **options: Any) -> Client:
        client = await Client.connect(url, **options)
        if client.url.port == port(target):
            clients.append(client)
        return client

    settings = replace(QUICK, buffer_bytes=1_000_000, stall=4.0)  # longer than the pictures below take
    forwarder = forward(source, at(target), at(healthy), settings=settings, connect=connect)
    publisher, player = await net.watched(source)
    other = await net.player(healthy)
    await live(forwarder, 2)
    frozen = next(client for client in target.clients.values() if client.role == "publish")
    assert isinstance(frozen, Connection)
    frozen.transport.pause_reading()
    most = 0

    def facts() -> ForwardFacts:
        return next(each for each in forwarder.facts() if str(port(target)) in each.target)

    for number in range(1, 300):
        await publisher.write(frame(number, 100_000, key=number % 10 == 0))
        await player.until(lambda number=number: player.numbers()[-1] == number)  # type: ignore[misc]
        most = max(most, clients[0].unsent)
    await other.until(lambda: other.numbers()[-1] == 299)
    assert player.numbers() == other.numbers() == list(range(300))
    assert 1_000_000 < most < 1_300_000
    assert facts().dropped > 20
    await eventually(lambda: facts().reconnects >= 1, 15)
    assert facts().error == "the target takes nothing"
    viewer = await net.player(target)
    await publisher.write(frame(300, key=True), frame(301))
    await viewer.until(lambda: viewer.numbers()[-2:] == [300, 301])


async def test_a_slow_target_goes_on_at_a_key_frame(net: Net, forward: Forwarding) -> None:
    source, target = await net.server(), await net.server()
    forwarder = forward(source, at(target), settings=replace(QUICK, buffer_bytes=200_000))
    publisher, player = await net.watched(source)
    there = await net.player(target)
    await live(forwarder)
    slow = next(client for client in target.clients.values() if client.role == "publish")
    assert isinstance(slow, Connection)
    slow.transport.pause_reading()
    number = 0
    while only(forwarder).dropped < 5:
        number += 1
        await publisher.write(frame(number, 100_000))
        await player.until(lambda number=number: player.numbers()[-1] == number)  # type: ignore[misc]
    assert only(forwarder).delay_seconds > 0
    slow.transport.resume_reading()
    await eventually(lambda: only(forwarder).delay_seconds == 0)
    await publisher.write(frame(number + 1), frame(number + 2, key=True), frame(number + 3))
    await there.until(lambda: there.numbers()[-1] == number + 3)
    numbers = there.numbers()
    assert numbers[:-2] == list(range(len(numbers) - 2))
    assert numbers[-2:] == [number + 2, number + 3]
    assert only(forwarder).reconnects == 0


async def test_a_taken_name_is_tried_again(net: Net, forward: Forwarding) -> None:
    source, target = await net.server(), await net.server(stream=StreamSettings(takeover_seconds=60))
    other = await net.publisher(target)
    forwarder = forward(source, at(target))
    publisher = await net.publisher(source)
    await publisher.write(frame(0, key=True))
    number = 0
    while not only(forwarder).error:
        number += 1
        await other.write(frame(number))
        await asyncio.sleep(0.01)
    assert only(forwarder).error == "NetStream.Publish.BadName"
    other.sock.close()
    await live(forwarder)


async def test_a_loop_is_cut(net: Net, forward: Forwarding) -> None:
    through: dict[str, list[str]] = {"a": [], "b": []}

    def check(node: str) -> Hooks:
        said: dict[str, list[str]] = {}

        def on_connect(request: Request) -> None:
            said[request.client] = request.parameters.get("pyrtmp", {}).get("hops", "").split()

        def on_publish(request: Request) -> None:
            hops = said[request.client]
            if node in hops:
                raise RefusedError("NetStream.Publish.Loop", "It came through here.")
            through[node] = hops

        return Hooks(on_connect=on_connect, on_publish=on_publish)

    a, b = await net.server(hooks=check("a")), await net.server(hooks=check("b"))
    from_a = forward(a, at(b), node="a", hops=lambda stream: through["a"])
    from_b = forward(b, at(a), node="b", hops=lambda stream: through["b"])
    publisher = await net.publisher(a)
    await publisher.write(frame(0, key=True))
    await eventually(lambda: from_b.facts() and only(from_b).state == "waiting")
    assert only(from_b).error == "NetStream.Publish.Loop"
    await eventually(lambda: only(from_b).attempts > 2)
    assert len(journal(b).of("forward_failed")) == 1
    assert only(from_a).state == "live"


@pytest.mark.parametrize("hops", [["x", "here"], ["1", "2", "3", "4"]])
async def test_what_came_too_far_is_not_sent(net: Net, forward: Forwarding, hops: list[str]) -> None:
    source, target = await net.server(), await net.server()
    forwarder = forward(source, at(target), hops=lambda stream: hops)
    await net.publisher(source)
    await eventually(lambda: only(forwarder).state == "waiting")
    assert (only(forwarder).error, only(forwarder).attempts) == ("NetStream.Publish.Loop", 0)
    assert not target.clients


async def test_configure(net: Net, forward: Forwarding) -> None:
    source, one, two, three = [await net.server() for _ in range(4)]
    forwarder = forward(source, at(one), at(two))
    await net.publisher(source)
    await live(forwarder, 2)
    before = {each.target: each for each in forwarder.facts()}
    forwarder.configure([at(two), at(three)], {"other": [at(one)]})
    await live(forwarder, 2)
    await eventually(lambda: not one.hub.live())
    after = {each.target: each for each in forwarder.facts()}
    (kept,) = before.keys() & after.keys()
    assert before[kept].since == after[kept].since
    forwarder.configure([at(two), at(three)], {"live": [at(one)]})
    await live(forwarder)
    assert [len(each.hub.live()) for each in (one, two, three)] == [1, 0, 0]
    forwarder.configure([])
    assert forwarder.facts() == []


async def test_the_same_place_counts_once_and_a_new_key_reconnects(net: Net, forward: Forwarding) -> None:
    asked: list[Request] = []
    source, target = await net.server(), await net.server(hooks=Hooks(on_publish=asked.append))
    same = f"rtmp://127.0.0.1:{port(target)}/{{app}}/{{name}}?key="
    forwarder = forward(source, parse_target(same + "secret1"), at(target))
    await net.publisher(source)
    await live(forwarder)
    forwarder.configure([parse_target(same + "secret2")])
    await eventually(lambda: len(asked) == 2)
    await live(forwarder)
    assert [each.query for each in asked] == ["key=secret1", "key=secret2"]
    assert only(forwarder).error == ""


async def test_the_end_of_the_publisher_is_the_end_there_and_another_begins_anew(
    net: Net, forward: Forwarding
) -> None:
    source, target = await net.server(), await net.server()
    forwarder = forward(source, at(target))
    player = await net.peer(target)
    await player.play()
    for begin in (0, 100):
        publisher = await net.publisher(source)
        await live(forwarder)
        await publisher.write(frame(begin, key=True), *(frame(begin + n, 50_000) for n in range(1, 30)))
        await publisher.command("deleteStream", 1.0)
        await player.until(lambda begin=begin: player.numbers()[-1:] == [begin + 29])  # type: ignore[misc]
        await eventually(lambda: not target.hub.live())
        assert forwarder.facts() == []
    assert player.numbers() == [*range(30), *range(100, 130)]
    assert not [client for client in target.clients.values() if client.role == "publish"]
    assert len(journal(target).of("unpublish")) == 2
    assert not journal(target).bad()


async def test_a_publisher_that_takes_over_is_forwarded_at_once(net: Net, forward: Forwarding) -> None:
    source, target = await net.server(stream=StreamSettings(takeover_seconds=0.1)), await net.server()
    forwarder = forward(source, at(target))
    first = await net.publisher(source)
    await first.write(frame(0, key=True))
    player = await net.player(target)
    await player.until(player.numbers)
    second = await net.publisher(source)
    await second.write(frame(10, key=True), frame(11))
    await player.until(lambda: player.numbers() == [0, 10, 11])
    assert only(forwarder).state == "live"
    assert not journal(target).bad()


async def test_a_dead_target_costs_the_other_nothing(net: Net, forward: Forwarding) -> None:
    source, target = await net.server(), await net.server()
    forwarder = forward(source, parse_target(f"127.0.0.1:{free_ports(1)[0]}"), at(target))
    player = await net.peer(target)
    await player.play()
    publisher = await net.publisher(source)
    await live(forwarder)
    for number in range(100):
        await publisher.write(frame(number, key=number == 0))
    await player.until(lambda: player.numbers() == list(range(100)))
    assert sorted(each.state == "live" for each in forwarder.facts()) == [False, True]


async def test_streams_that_are_live_already_and_unwanted_ones(net: Net, forward: Forwarding) -> None:
    source, target = await net.server(), await net.server()
    await net.publisher(source, "cam")
    await net.publisher(source, "private")
    forwarder = forward(source, at(target), wanted=lambda stream: stream.key.name != "private")
    await live(forwarder)
    assert [str(stream.key) for stream in target.hub.live()] == ["live/cam"]


async def test_more_targets_come_when_they_come(net: Net, forward: Forwarding) -> None:
    source, one, two = [await net.server() for _ in range(3)]
    answer = asyncio.Event()

    async def extra(stream: Stream) -> Sequence[Target]:
        await answer.wait()
        return [at(two)]

    forwarder = forward(source, at(one), extra_targets=extra)
    publisher = await net.publisher(source)
    await live(forwarder)
    answer.set()
    await live(forwarder, 2)
    forwarder.configure([at(one)], extra_targets=extra)
    assert len(forwarder.facts()) == 2
    await publisher.command("deleteStream", 1.0)
    await eventually(lambda: not one.hub.live() and not two.hub.live())


class Answers:
    """Answers the question for more targets: what is in the list, in turn, and for ever its last entry."""

    def __init__(self, *answers: list[Target] | Exception) -> None:
        self.asked = 0
        self._answers = answers

    async def __call__(self, stream: Stream) -> Sequence[Target]:
        self.asked += 1
        answer = self._answers[min(self.asked, len(self._answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_a_question_that_fails_is_asked_again_and_costs_nothing(net: Net, forward: Forwarding) -> None:
    source, one, two = [await net.server() for _ in range(3)]
    answers = Answers(TimeoutError(), OSError("the callback answered 500"), [at(two)])
    forwarder = forward(source, at(one), extra_targets=answers)
    await net.publisher(source)
    await live(forwarder, 2)
    assert answers.asked == 3 and forwarder.totals.failures == 2
    assert journal(source).of("forward_targets_failed") == [
        {"stream": "live/cam", "error": "timed out", "attempt": 1, "left": 9},
        {"stream": "live/cam", "error": "the callback answered 500", "attempt": 2, "left": 8},
    ]


async def test_it_is_not_asked_for_ever(net: Net, forward: Forwarding) -> None:
    source, answers = await net.server(), Answers(OSError("no"))
    settings = PushSettings(first_retry=0.001, longest_retry=0.002, max_asks=3)
    forward(source, extra_targets=answers, settings=settings)
    await net.publisher(source)
    (stream,) = source.hub.live()
    assert stream.wanted  # as long as there may be an answer
    await eventually(lambda: not stream.wanted)
    assert answers.asked == 3
    assert [line["left"] for line in journal(source).of("forward_targets_failed")] == [2, 1, 0]


async def test_nobody_asks_for_a_stream_that_is_over(net: Net, forward: Forwarding) -> None:
    source, answers = await net.server(), Answers(OSError("no"))
    forward(source, extra_targets=answers, settings=PushSettings(first_retry=60.0, longest_retry=60.0))
    publisher = await net.publisher(source)
    await eventually(lambda: answers.asked)
    assert _asking()
    await publisher.command("deleteStream", 1.0)
    await eventually(lambda: not _asking())


def _asking() -> list[Any]:
    return [task for task in asyncio.all_tasks() if "Forwarder._ask" in repr(task)]


async def test_every_publisher_is_asked_about_also_where_the_answer_was_nowhere(net: Net, forward: Forwarding) -> None:
    source, target = await net.server(), await net.server()
    answers = Answers([], [at(target)])
    forwarder = forward(source, extra_targets=answers)
    first = await net.publisher(source)
    await net.player(source)  # so that it is the same stream afterwards
    (stream,) = source.hub.live()
    await eventually(lambda: answers.asked == 1 and not stream.outlets)
    forwarder.configure([], extra_targets=answers)
    await first.command("deleteStream", 1.0)
    await eventually(lambda: not stream.live)
    forwarder.configure([at(target)], extra_targets=answers)
    assert not forwarder.facts() and answers.asked == 1  # nothing of one who left
    await net.publisher(source)
    assert source.hub.live() == [stream]
    await live(forwarder)
    await eventually(lambda: answers.asked == 2)


async def test_another_callback_is_asked_about_what_is_live(net: Net, forward: Forwarding) -> None:
    source, one, two = [await net.server() for _ in range(3)]
    forwarder = forward(source, extra_targets=Answers([at(one)]))
    await net.publisher(source)
    await live(forwarder)
    answer = asyncio.Event()

    async def slow(stream: Stream) -> Sequence[Target]:
        await answer.wait()
        return [at(two)]

    forwarder.configure([], extra_targets=slow)
    assert only(forwarder).target.endswith(f":{port(one)}/live/cam")  # until the answer
    answer.set()
    await eventually(lambda: only(forwarder).target.endswith(f":{port(two)}/live/cam"))
    await live(forwarder)
    forwarder.configure([])
    assert not forwarder.facts() and not source.hub.live()[0].outlets


async def test_keys_are_neither_logged_nor_shown(net: Net, forward: Forwarding) -> None:
    def refuse(request: Request) -> None:
        raise RefusedError("NetStream.Publish.Denied", f"{request.query} is wrong")

    source, target = await net.server(), await net.server(hooks=Hooks(on_publish=refuse))
    to = parse_target(f"rtmp://127.0.0.1:{port(target)}/live/secret-key?token=secret-token")
    forwarder = forward(source, to)
    await net.publisher(source)
    await eventually(lambda: only(forwarder).error == "NetStream.Publish.Denied")
    assert "secret" not in repr(forwarder.facts())
    await forwarder.close()
    assert journal(source).of("forward_failed", "forward_ended")
    assert "secret" not in repr(journal(source).lines)


async def test_close_ends_a_forward_cleanly(net: Net, forward: Forwarding) -> None:
    source, target = await net.server(), await net.server()
    forwarder = forward(source, at(target))
    await net.publisher(source)
    await live(forwarder)
    await forwarder.close()
    await eventually(lambda: not target.clients)
    assert not journal(target).bad()
    await net.publisher(source, "other")
    assert forwarder.facts() == []
    (stream, _) = source.hub.live()
    assert not stream.wanted


@pytest.mark.parametrize("healthy", [0.0, 60.0])
async def test_health_makes_the_next_failure_the_first(
    net: Net, forward: Forwarding, monkeypatch: pytest.MonkeyPatch, healthy: float
) -> None:
    pauses: list[float] = []
    asked: list[Request] = []
    following = Backoff.next

    def at_once(backoff: Backoff) -> float:
        pauses.append(following(backoff))
        return 0.0

    def refuse(request: Request) -> None:
        asked.append(request)
        if len(asked) < 5:
            raise RefusedError("NetStream.Publish.Denied", "Not yet.")

    monkeypatch.setattr(Backoff, "next", at_once)
    source, target = await net.server(), await net.server(hooks=Hooks(on_publish=refuse))
    settings = replace(QUICK, healthy=healthy, first_retry=1.0, longest_retry=9.0)
    forwarder = forward(source, at(target), settings=settings)
    await net.publisher(source)
    await live(forwarder)
    next(iter(target.clients.values())).kick()
    await eventually(lambda: only(forwarder).reconnects == 1)
    assert [1.0 / 2 <= pauses[0] <= 1.0, 8.0 / 2 <= pauses[3] <= 8.0] == [True, True]
    assert pauses[4] <= 1.0 if healthy == 0.0 else pauses[4] >= 9.0 / 2


@pytest.mark.parametrize(
    "error, text",
    [
        (RefusedError("NetStream.Publish.BadName", "live/cam?key=secret is taken"), "NetStream.Publish.BadName"),
        (TimeoutError(), "timed out"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (ConnectionError("the server closed the connection"), "the server closed the connection"),
        (ChunkError("csid 63 secret"), "protocol error (chunk)"),
        (ZeroDivisionError("secret"), "internal error (ZeroDivisionError)"),
        (RefusedError("x" * 1000, ""), "x" * 200),
    ],
)
def test_explain(error: Exception, text: str) -> None:
    assert explain(error) == text


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context, and one for clients that trust it."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", Path(folder / "cert.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=certificate)


async def test_tls(net: Net, forward: Forwarding, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    source, target = await net.server(), Server(journal=journal(await net.server()))
    await target.start("127.0.0.1", 0, tls=tls[0])
    inside = await net.server()
    again = forward(target, at(inside))
    to = parse_target(f"rtmps://127.0.0.1:{port(target)}/{{app}}")
    forwarder, distrustful = forward(source, to, tls=lambda: tls[1]), forward(source, to)
    publisher = await net.publisher(source)
    await live(forwarder)
    await publisher.write(*(frame(n, 100_000, key=n == 0) for n in range(50)))
    await live(again)
    player = await net.player(inside)
    await player.until(lambda: player.numbers()[-1:] == [49])
    assert player.numbers() == list(range(50))
    await eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in only(distrustful).error.upper().replace(" ", "_"))
    await forwarder.close()
    await distrustful.close()
    await again.close()
    await target.close()


async def test_streams_of_other_processes_are_left_to_those(net: Net, forward: Forwarding) -> None:
    class Elsewhere:
        id = "e"
        tracks: tuple[bool, bool] | None = None
        told = ""

        def displaced(self, stream: Stream, code: str, description: str) -> None: ...

        def open(self, lane: Lane) -> None: ...

        def close(self, lane: Lane) -> None: ...

        def end(self) -> None: ...

    source, target = await net.server(), await net.server()
    forwarder = forward(source, at(target))
    publisher = await net.publisher(source)
    await live(forwarder)
    (stream,) = source.hub.live()
    stream.wait(print)  # somebody keeps the stream when its publisher goes
    publisher.sock.close()
    await eventually(lambda: not forwarder.facts())
    source.hub.relay(stream, Elsewhere(), monotonic())
    assert forwarder.facts() == []


async def test_without_targets_a_stream_does_not_count_as_watched(net: Net, forward: Forwarding) -> None:
    """Publishers that nobody watches are read at leisure, at half the cost."""
    source, target = await net.server(), await net.server()
    forwarder = forward(source)
    publisher = await net.publisher(source)
    await publisher.write(frame(0, key=True))
    await eventually(lambda: source.hub.live()[0].messages_in)
    (stream,) = source.hub.live()
    assert not stream.wanted and not forwarder.facts()
    forwarder.configure([at(target)])
    await live(forwarder)
    assert stream.wanted
    forwarder.configure([])
    await eventually(lambda: not stream.wanted)
    assert not forwarder.facts()
