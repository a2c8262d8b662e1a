from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.facts import Facts, viewers_by_protocol
from cluster.publish import read
from pyrtmp.hub import Hub
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
    since: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        pass


@dataclass
class FakeAudience:
    bytes_out: Counter[StreamKey] = field(default_factory=Counter)

    def viewers(self) -> Counter[StreamKey]:
        return Counter({KEY: 2})


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


def test_viewers_by_protocol(world: World) -> None:
    world.publish()
    world.facts.audience = FakeAudience()
    world.facts.sample()
    assert viewers_by_protocol(world.facts.streams()) == {"rtmp": 0, "flv": 0, "hls": 2}
