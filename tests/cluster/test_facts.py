from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.facts import ClientFacts, Facts, StreamFacts, merge_clients, merge_streams, page, plain
from cluster.publish import read
from pyrtmp.amf.values import Xml
from pyrtmp.hub import Hub
from pyrtmp.kin import STRANGER, Kin
from pyrtmp.lane import Lane
from pyrtmp.message import VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import Stream

KEY = StreamKey("live", "cam")


@dataclass
class FakeClient:
    id: str
    key: StreamKey | None = KEY
    role: str = "play"
    protocol: str = "rtmp"
    address: str = "10.0.0.1"
    agent: str = "test"
    kin: Kin = STRANGER
    since: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        pass


@dataclass
class FakeAudience:
    bytes_out: Counter[StreamKey] = field(default_factory=Counter)

    def members(self) -> list[tuple[StreamKey, str, str]]:
        return [(KEY, "10.0.0.1", "vlc"), (KEY, "10.0.0.1", "ffplay")]


class World:
    """A hub, clients and a clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.hub = Hub(StreamSettings(), lambda stream: None)
        self.clients: dict[str, FakeClient] = {}
        self.facts = Facts(self, lambda: self.now)

    def publish(self) -> Stream:
        publisher = self.clients["p"] = FakeClient("p", role="publish")
        return self.hub.publish(KEY, publisher, self.now)


@pytest.fixture
def world() -> World:
    return World()


def frame(timestamp: int, size: int = 1000) -> Message:
    return Message(VIDEO, timestamp, 1, b"\x27\x01\x00\x00\x00" + bytes(size - 5))


def test_nothing(world: World) -> None:
    world.facts.sample()
    assert world.facts.streams() == [] and world.facts.clients() == [] and world.facts.page() == []
    assert world.facts.stream("live", "cam") is None and world.facts.client("p") is None


def test_rates_follow_what_arrives_and_forget_what_was(world: World) -> None:
    stream = world.publish()
    time = 0
    for rate in (25, 50):
        for _ in range(8):
            world.facts.sample()
            for _ in range(rate):
                stream.push(frame(time := time + 1000 // rate))
            world.now += 1.0
        world.facts.sample()
        facts = world.facts.stream("live", "cam")
        assert facts is not None
        assert facts.fps == rate
        assert facts.kbps_in == rate * 8  # 1000 bytes each
        world.now += 0.001
    assert facts.kbps_in_30s == pytest.approx((25 + 50) / 2 * 8, rel=0.01)
    assert facts.uptime == pytest.approx(16, abs=0.01)
    assert (facts.video_frames, facts.bytes_in, facts.publisher, facts.publishes) == (600, 600_000, "p", 1)


@pytest.mark.parametrize("pulled", [False, True])
def test_a_publisher_that_falls_behind_real_time(world: World, pulled: bool) -> None:
    stream = world.publish()
    stream.pulled = pulled
    for second in range(12):
        for number in range(25):  # 25 frames of 30 ms arrive in a second
            stream.push(frame((second * 25 + number) * 30))
        world.facts.sample()
        world.now += 1
    facts, tally = world.facts.streams()[0], world.facts.tally
    assert facts.behind == pytest.approx(10 * 0.25, abs=0.05)
    # What is fetched from another node has no publisher here.
    assert (tally.behind, tally.late) == ((0, 0) if pulled else (pytest.approx(facts.behind, abs=0.01), 1))
    stream.leave(world.now)
    world.facts.sample()
    assert world.facts.streams()[0].behind == world.facts.tally.behind == world.facts.tally.late == 0


def test_a_stream_that_its_publisher_left_has_no_rate(world: World) -> None:
    stream = world.publish()
    for number in range(3):
        stream.push(frame(number * 40))
        world.facts.sample()
        world.now += 1
    stream.leave(world.now)
    facts = world.facts.streams()[0]
    assert (facts.state, facts.fps, facts.kbps_in, facts.uptime, facts.publisher) == ("gone", 0, 0, 0, "")
    assert world.facts.page() == []


def test_a_new_stream_of_the_same_name_starts_from_nothing(world: World) -> None:
    stream = world.publish()
    stream.push(frame(0, 100_000))
    world.facts.sample()
    world.hub.end(stream, world.now)
    world.now += 1
    world.publish()
    world.facts.sample()
    world.now += 1
    world.facts.sample()
    facts = world.facts.streams()[0]
    assert (facts.kbps_in, facts.bytes_in, facts.bytes_out) == (0, 0, 0)


def test_codecs_are_described_once_per_header(world: World, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = world.publish()
    for message in read(clip):
        stream.push(message)
    facts = world.facts.streams()[0]
    assert facts.video is not None and facts.audio is not None
    assert (facts.video.codec, facts.video.width, facts.video.height) == ("h264", 640, 360)
    assert (facts.audio.codec, facts.audio.sample_rate, facts.audio.channels) == ("aac", 48000, 2)
    assert facts.gop_ms == 1000
    monkeypatch.setattr("pyrtmp.media.describe_video", None)  # may not be called again
    assert world.facts.streams()[0].video is facts.video


def test_what_viewers_get(world: World) -> None:
    world.publish()
    one = world.clients["one"] = FakeClient("one", bytes_out=500)
    audience = world.facts.audience = FakeAudience()
    world.facts.sample()
    for _ in range(20):
        one.bytes_out += 1000
        audience.bytes_out[KEY] += 250
        world.now += 1
        world.facts.sample()
    stream = world.facts.streams()[0]
    assert stream.bytes_out == 500 + 20 * 1250
    assert stream.kbps_out_30s == pytest.approx(10)
    assert stream.viewers == {"hls": 2} and stream.total_viewers == 2
    client = world.facts.client("one")
    assert client is not None
    assert client.kbps_out_30s == pytest.approx(8)
    assert client.seconds == world.now
    audience.bytes_out.clear()  # the audience forgets those that left: not a step back
    one.bytes_out = 10  # and a client may begin to play another stream
    world.now += 1
    world.facts.sample()
    assert world.facts.streams()[0].bytes_out == stream.bytes_out
    client = world.facts.client("one")
    assert client is not None and client.kbps_out_30s == 0


def test_rates_of_a_client_are_over_the_last_half_minute(world: World) -> None:
    client = world.clients["one"] = FakeClient("one", key=None)
    for second in range(120):
        client.bytes_in += 1000 if second < 60 else 2000
        world.facts.sample()
        world.now += 1
    facts = world.facts.clients()[0]
    assert facts.kbps_in_30s == pytest.approx(16)


def test_what_is_gone_is_forgotten(world: World) -> None:
    stream = world.publish()
    world.facts.sample()
    world.clients.clear()
    world.hub.end(stream, world.now)
    world.facts.sample()
    assert not world.facts._streams and not world.facts._clients


def test_lists_in_parts(world: World) -> None:
    for number in range(10):
        world.clients[str(number)] = FakeClient(str(number), key=None)
        world.hub.publish(StreamKey("live", str(number)), world.clients[str(number)], world.now)
    assert [each.id for each in world.facts.clients(3, 2)] == ["3", "4"]
    assert [each.key.name for each in world.facts.streams(8, 5)] == ["8", "9"]
    assert world.facts.streams(50, 5) == []


def test_the_page_is_asked_often_and_made_once_a_second(world: World) -> None:
    stream = world.publish()
    first = world.facts.page()
    [entry] = first
    assert (entry["app"], entry["name"], entry["video"], entry["audio"]) == ("live", "cam", None, None)
    world.hub.end(stream, world.now)
    assert world.facts.page() is first
    world.now += 1.0
    assert world.facts.page() == []


def test_what_all_add_up_to(world: World) -> None:
    stream = world.publish()
    world.clients["p"].bytes_in = 5000
    one = world.clients["one"] = FakeClient("one", protocol="flv", bytes_in=7, bytes_out=500)
    audience = world.facts.audience = FakeAudience()
    world.facts.sample()
    for number in range(30):
        stream.push(frame(number * 1000))
        one.bytes_out += 3000
        audience.bytes_out[KEY] += 1000
        world.now += 1
        world.facts.sample()
    tally = world.facts.tally
    assert tally.clients == {("rtmp", "publish"): 1, ("flv", "play"): 1}
    assert (tally.bytes_in, tally.bytes_out["flv"]) == (5000, 500 + 30 * 3000)
    assert len(tally.watchers) == 2
    assert tally.kbps_in == pytest.approx(8) and tally.kbps_out == pytest.approx(32)
    # A stream that goes is no step back.
    world.hub.end(stream, world.now)
    world.clients.clear()
    world.now += 1
    world.facts.sample()
    assert world.facts.tally.kbps_in > 0 and not world.facts.tally.clients


def test_metadata_is_told_of_one_stream(world: World) -> None:
    world.publish().metadata = {"width": 640.0, "what": [1]}
    facts = world.facts.stream("live", "cam")
    assert facts is not None and facts.metadata == {"width": 640.0}
    assert world.facts.streams()[0].metadata == {}


def test_metadata_is_cut_to_what_json_and_people_bear() -> None:
    metadata = {
        "width": 640.0, "stereo": True, "encoder": "x" * 1000, "nan": float("nan"), "big": float("inf"),
        "list": [1] * 1000, "k" * 1000: 1.0, "xml": Xml("<a/>"), **{str(number): number for number in range(100)},
    }  # fmt: skip
    kept = plain(metadata)
    assert len(kept) <= 64 and kept["stereo"] is True and kept["encoder"] == "x" * 256
    assert not {"nan", "big", "list"} & kept.keys()
    assert {type(value) for value in kept.values()} == {float, bool, str, int}
    json.dumps(kept, allow_nan=False)


def test_an_agent_is_text(world: World) -> None:
    world.clients["one"] = FakeClient("one", agent="VLC \udcff \U0001f600")
    assert world.facts.clients()[0].agent == "VLC ? \U0001f600"


# Several processes


class FakeRelay:
    """A publisher in another process."""

    id = "elsewhere"
    tracks = (True, True)
    told = ""

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        pass

    def open(self, lane: Lane) -> None:
        pass

    def close(self, lane: Lane) -> None:
        pass

    def end(self) -> None:
        pass


def test_who_holds_a_stream(world: World) -> None:
    world.publish()
    facts = world.facts.streams()[0]
    assert (facts.held, facts.worker, facts.since) == (True, -1, 1000.0)
    other = World()
    other.facts = Facts(other, lambda: other.now, worker=1)
    stream = other.hub.open(KEY, 500.0)
    other.clients["v"] = FakeClient("v", since=3.0)
    assert other.facts.streams()[0].held is False
    other.hub.relay(stream, FakeRelay(), other.now)
    facts = other.facts.streams()[0]
    assert (facts.state, facts.held, facts.worker) == ("live", False, 1)
    assert facts.since == 500.0  # when it was seen first
    client = other.facts.clients()[0]
    assert (client.worker, client.since) == (1, 3.0)


def told(worker: int, **fields: Any) -> StreamFacts:
    """One stream as a worker tells of it."""
    values: dict[str, Any] = {
        "key": KEY, "state": "live", "uptime": 0.0, "publisher": "", "publishes": 0, "video": None, "audio": None,
        "fps": 0.0, "kbps_in": 0.0, "kbps_in_30s": 0.0, "kbps_out_30s": 0.0, "gop_ms": 0, "video_frames": 0,
        "messages": 0, "bytes_in": 0, "bytes_out": 0, "viewers": {}, "waiting": 0, "since": 5.0, "held": False,
    }  # fmt: skip
    return StreamFacts(**(values | {"worker": worker} | fields))


def test_the_holder_knows_and_viewers_add_up() -> None:
    relay = told(
        0, publisher="relay", viewers={"rtmp": 2, "flv": 1, "hls": 2}, watchers=frozenset({1, 2}), bytes_out=100,
        kbps_out_30s=8.1, waiting=1, since=3.0,
    )  # fmt: skip
    holder = told(
        1, publisher="p", held=True, fps=25.0, kbps_in=900.0, bytes_in=5000, bytes_out=50, kbps_out_30s=4.1,
        viewers={"rtmp": 1, "hls": 2}, watchers=frozenset({2, 3}), uptime=9.0, metadata={"a": 1},
    )  # fmt: skip
    [merged] = merge_streams([[relay], [holder]])
    assert (merged.worker, merged.held, merged.publisher) == (1, True, "p")
    assert (merged.fps, merged.kbps_in, merged.bytes_in, merged.uptime) == (25.0, 900.0, 5000, 9.0)
    assert merged.viewers == {"rtmp": 3, "flv": 1, "hls": 3} and merged.total_viewers == 7
    assert (merged.bytes_out, merged.kbps_out_30s, merged.waiting) == (150, 12.2, 1)
    assert merged.since == 3.0 and merged.metadata == {"a": 1}
    assert merge_streams([[holder], [relay]]) == [merged]


def test_without_a_holder_whoever_knows_it_most_alive() -> None:
    states = [told(worker, state=state) for worker, state in enumerate(("ended", "awaited", "gone", "awaited"))]
    [merged] = merge_streams([[each] for each in states])
    assert (merged.state, merged.worker) == ("gone", 2)
    assert merge_streams([states[1:2], states[:1]])[0].state == "awaited"


def test_merged_streams_in_parts() -> None:
    streams = [told(number % 2, key=StreamKey("live", str(number)), since=10.0 - number) for number in range(6)]
    lists = [[each for each in streams if each.worker == worker] for worker in (0, 1)]
    names = [each.key.name for each in merge_streams(lists)]
    assert names == ["5", "4", "3", "2", "1", "0"]
    assert [each.key.name for each in merge_streams(lists, 2, 3)] == names[2:5]
    assert merge_streams(lists, 6, 10) == [] and merge_streams([], 0, 5) == []


def test_merged_clients_in_parts(world: World) -> None:
    world.clients["late"], world.clients["early"] = FakeClient("late", since=7.0), FakeClient("early", since=2.0)
    clients = world.facts.clients()
    middle = replace(clients[0], id="middle", since=4.0, worker=1)
    assert [each.id for each in merge_clients([clients, [middle]])] == ["early", "middle", "late"]
    assert merge_clients([clients, [middle]], 1, 1) == [middle]
    assert isinstance(middle, ClientFacts)


def test_the_page_lists_what_is_live() -> None:
    streams = [told(0, held=True, viewers={"flv": 3}, kbps_in=1000.4), told(1, state="gone", key=StreamKey("a", "b"))]
    [entry] = page(streams)
    assert (entry["app"], entry["name"], entry["viewers"], entry["kbps"]) == ("live", "cam", 3, 1000)
