from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import reports
from cluster.facts import ClientFacts, Facts, StreamFacts
from cluster.recording.facts import RecordingFacts
from cluster.reports import CLIENTS, RECORDINGS, STREAMS, Gauges, Numbers, merge
from cluster.stress import Load
from cluster.vitals import Claims, Vitals
from pyrtmp.codecs import AudioInfo, VideoInfo
from pyrtmp.counters import Counters
from pyrtmp.forms import RtmpForm
from pyrtmp.histogram import Histogram
from pyrtmp.hub import Hub
from pyrtmp.message import VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import Stream

KEY = StreamKey("live", "cam")


@dataclass
class FakeServer:
    counters: Counters = field(default_factory=Counters)
    rounds: Any = field(default_factory=lambda: SimpleNamespace(delay=0.02))
    hub: Hub = field(default_factory=lambda: Hub(StreamSettings(), lambda stream: None))
    clients: dict[str, Any] = field(default_factory=dict)


class FakeHls:
    @property
    def packaged(self) -> int:
        return 3

    def memory(self) -> int:
        return 4096


class FakeAudience:
    def __init__(self, *members: tuple[StreamKey, str, str]) -> None:
        self.bytes_out: Counter[StreamKey] = Counter()
        self._members = members

    def members(self) -> tuple[tuple[StreamKey, str, str], ...]:
        return self._members


class FakeViewer:
    def signal(self, live: bool) -> None:
        pass

    def end(self) -> None:
        pass


class FakeRelay:
    id = "elsewhere"
    tracks = (True, True)
    told = ""

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        pass

    def open(self, lane: Any) -> None:
        pass

    def close(self, lane: Any) -> None:
        pass

    def end(self) -> None:
        pass


def client(protocol: str, role: str, bytes_in: int = 0, bytes_out: int = 0) -> Any:
    return SimpleNamespace(protocol=protocol, role=role, key=None, bytes_in=bytes_in, bytes_out=bytes_out)


def take(server: FakeServer, audience: FakeAudience | None = None, **more: Any) -> Numbers:
    facts = Facts(server)
    facts.audience = audience
    facts.sample()
    return Numbers.take(server, FakeHls(), facts, **more)


def histogram(*values: float) -> Histogram:
    made = Histogram((0.1, 1.0))
    for value in values:
        made.observe(value)
    return made


def full() -> Numbers:
    """Nothing in it is 0."""
    counters = Counters()
    for number, name in enumerate((each.name for each in fields(Counters)), 2):
        counted = name in ("refused", "plays", "bytes_out", "viewers_failed")
        setattr(counters, name, Counter(chunk=number) if counted else number)
    counters.first_frames = {"rtmp": histogram(0.5)}
    values: dict[str, Any] = {
        "clients": {"rtmp": {"play": 1}}, "viewers": {"rtmp": 1}, "cpu_share": 0.5, "round_delay": 0.25,
        "loop_lag": 0.125, "ingest_behind": 0.375, "forwards": {"live": 2, "waiting": 1},
        "recordings": {"recording": 3},
        "kbps_in": 1.5, "kbps_out": 2.5,
    }  # fmt: skip
    for number, each in enumerate(fields(Gauges), 20):
        values.setdefault(each.name, frozenset({number}) if each.name in ("gone", "awaited", "watchers") else number)
    return Numbers(
        worker=3, pid=5, restarts=7, counters=counters, cpu_seconds=9.5, ipc_bytes_in=11, ipc_bytes_out=13,
        forward_failures=15, pull_changes=17, pull_failures=19, round_trips={"flv": histogram(0.02)},
        resent={"flv": histogram(0.0)}, recorded_files=21, recorded_bytes=23, recording_dropped=25,
        recording_failures=27, now=Gauges(**values),
    )  # fmt: skip


# Taking


def test_bytes_go_on_when_a_connection_ends() -> None:
    server = FakeServer()
    server.clients = {"a": client("rtmp", "publish", 1000), "b": client("rtmp", "play", 10, 500)}
    before = take(server)
    assert (before.counters.bytes_in, before.counters.bytes_out) == (1010, Counter(rtmp=500))
    server.clients = {}
    server.counters.bytes_in = 1010
    server.counters.bytes_out["rtmp"] = 500
    after = take(server)
    assert after.counters == before.counters and after.counters.first_frames is not server.counters.first_frames
    assert server.counters.bytes_in == 1010 and after.counters is not server.counters


def test_what_a_process_has() -> None:
    server = FakeServer()
    server.counters.takeovers = 3
    server.clients = {"a": client("rtmp", "publish", 5), "b": client("flv", "play", 7), "c": client("flv", "play")}
    stream = server.hub.publish(KEY, FakeRelay(), 0.0)
    stream.lane(RtmpForm()).viewers[FakeViewer()] = None  # type: ignore[index]
    stream.push(Message(VIDEO, 0, 1, b"\x17\x01\x00\x00\x00" + bytes(1000)))
    stream.flush()
    server.hub.open(StreamKey("live", "x"), 0.0).wait(lambda: None)
    left = server.hub.publish(StreamKey("live", "y"), FakeRelay(), 0.0)
    left.leave(1.0)
    watchers = FakeAudience((KEY, "10.0.0.1", "vlc"), (KEY, "10.0.0.2", "vlc"))
    numbers = take(server, watchers, worker=2, cpu_share=0.25)
    now = numbers.now
    assert (numbers.worker, numbers.pid, now.cpu_share) == (2, os.getpid(), 0.25)
    assert numbers.cpu_seconds > 0 and now.resident_bytes > 1_000_000
    assert now.clients == {"rtmp": {"publish": 1}, "flv": {"play": 2}}
    assert (numbers.connections, numbers.publishers) == (3, 1)
    assert numbers.streams == {"awaited": 1, "live": 1, "gone": 1}
    assert numbers.viewers == {"rtmp": 1, "hls": 2}
    assert (now.waiting, now.held) == (1, 1)
    assert now.gop_bytes > 1000 and now.log_bytes > 1000
    assert (now.hls_streams, now.hls_bytes, now.round_delay) == (3, 4096, 0.02)
    assert (numbers.counters.takeovers, numbers.counters.bytes_in) == (3, 5)


def test_what_is_relayed_belongs_to_its_holder() -> None:
    server = FakeServer()
    stream = server.hub.open(KEY, 0.0)
    server.hub.relay(stream, FakeRelay(), 0.0)
    lane = stream.lane(RtmpForm())
    lane.log.adopt(os.memfd_create("a segment"), 0)
    lane.log.extend(1000)
    lane.viewers[FakeViewer()] = None  # type: ignore[index]
    numbers = take(server)
    assert lane.log.bytes == 1000
    assert (numbers.now.held, numbers.now.log_bytes, numbers.viewers["rtmp"]) == (0, 0, 1)
    assert numbers.streams == {"awaited": 0, "live": 0, "gone": 0}
    stream.end(1.0)
    lane.close()


def test_reasons_are_bounded() -> None:
    server = FakeServer()
    for number in range(1000):
        server.counters.refused[str(number)] = 2
    refused = take(server).counters.refused
    assert len(refused) == reports.MAX_REASONS + 1 and refused.total() == 2000
    assert len(server.counters.refused) == 1000


# Merging


def test_numbers_add_up() -> None:
    one, other = full(), full()
    other = replace(other, now=replace(other.now, cpu_share=0.75, clients={"rtmp": {"play": 1, "idle": 4}, "flv": {}}))
    sum = merge([one, other])
    assert (sum.worker, sum.pid, sum.restarts) == (-1, 0, 14)
    assert (sum.cpu_seconds, sum.ipc_bytes_in, sum.ipc_bytes_out) == (19.0, 22, 26)
    for each in fields(Counters):
        before, after = getattr(one.counters, each.name), getattr(sum.counters, each.name)
        if each.name == "first_frames":
            assert after == {"rtmp": histogram(0.5, 0.5)}
            continue
        assert after == (Counter(chunk=before["chunk"] * 2) if isinstance(before, Counter) else before * 2), each.name
    assert sum.now.clients == {"rtmp": {"play": 2, "idle": 4}, "flv": {}}
    assert (sum.now.cpu_share, sum.now.round_delay) == (0.75, 0.25)
    assert (sum.pull_failures, sum.round_trips["flv"].total, sum.resent["flv"].total) == (38, 2, 2)
    assert sum.now.ingest_behind == 0.375
    assert (sum.now.loop_lag, sum.now.forwards) == (0.125, {"live": 4, "waiting": 2})
    assert (sum.recorded_files, sum.recorded_bytes, sum.now.recordings) == (42, 46, {"recording": 6})
    assert (sum.recording_dropped, sum.recording_failures) == (50, 54)
    assert (sum.now.kbps_out, sum.now.held, sum.now.viewers) == (5.0, one.now.held * 2, {"rtmp": 2})
    # Sets are of the same things.
    assert sum.now.watchers == one.now.watchers and len(sum.now.awaited) == 1
    assert one == full(), "what is merged does not change"


def test_merging_in_any_order() -> None:
    parts = [replace(full(), cpu_seconds=float(number)) for number in range(3)]
    assert merge([merge(parts[:2]), parts[2]]) == merge(parts) == merge([parts[2], merge(parts[:2])])
    assert merge([]) == Numbers()
    assert merge([replace(parts[0], worker=-1, pid=0)]) == replace(parts[0], worker=-1, pid=0)


def test_a_stream_known_to_several_counts_once() -> None:
    parts = [
        Numbers(now=Gauges(held=1, awaited=frozenset({1, 2}))),
        Numbers(now=Gauges(awaited=frozenset({2, 3}), gone=frozenset({1}))),
        Numbers(now=Gauges(gone=frozenset({1}), watchers=frozenset({9}))),
        Numbers(now=Gauges(watchers=frozenset({9, 10}))),
    ]
    sum = merge(parts)
    assert sum.streams == {"awaited": 2, "live": 1, "gone": 1}
    assert sum.viewers == {"hls": 2}


def test_no_counter_goes_back_when_a_process_ends() -> None:
    dead, alive = full(), full()
    before = merge([dead, alive])
    left = dead.retired()
    assert (left.worker, left.pid, left.now) == (-1, 0, Gauges())
    after = merge([alive, left])
    assert after.counters == before.counters
    assert (after.cpu_seconds, after.ipc_bytes_in, after.ipc_bytes_out) == (19.0, 22, 26)
    assert (after.recorded_files, after.recorded_bytes) == (42, 46)
    assert (after.recording_dropped, after.recording_failures) == (50, 54)
    assert after.now == alive.now


# JSON


def test_numbers_there_and_back() -> None:
    for numbers in (Numbers(), full(), full().retired()):
        again = Numbers.from_json(numbers.to_json())
        assert again == numbers
        assert merge([again, again]) == merge([numbers, numbers])
        assert isinstance(again.counters.refused, Counter)


@pytest.mark.parametrize(
    "wrong",
    [
        b"", b"{", b"null", b"[]", b"\xff", b'{"pid": "x"}', b'{"more": 1}', b'{"now": {"more": 1}}', b'{"now": 5}',
        b'{"now": {"watchers": [1]}}', b'{"cpu_seconds": NaN}', b'{"now": {"cpu_share": Infinity}}',
        b'{"counters": {"refused": {"a": "b"}}}', b" " * (reports.MAX_BYTES + 1),
    ],
)  # fmt: skip
def test_what_are_no_numbers(wrong: bytes) -> None:
    with pytest.raises(ValueError):
        Numbers.from_json(wrong)


STREAM = StreamFacts(
    key=KEY, state="live", uptime=5.5, publisher="p", publishes=1,
    video=VideoInfo("h264", 640, 360, "High", "3.1", 25.0), audio=AudioInfo("aac", 48000, 2, "LC"), fps=25.0,
    kbps_in=900.5, kbps_in_30s=900.0, kbps_out_30s=1800.0, gop_ms=1000, video_frames=10, messages=20, bytes_in=3000,
    bytes_out=6000, viewers={"rtmp": 2, "hls": 1}, waiting=0, since=1.25, held=True, worker=1,
    watchers=frozenset({1 << 63, 5}), metadata={"width": 640.0, "stereo": True, "encoder": "OBS", "number": 3},
    vitals=Vitals(seconds=5.5, pace=1.01, sound_ahead_ms=-20, claims=Claims(fps=25.0, video=True)),
)  # fmt: skip

CLIENT = ClientFacts(
    id="0123456789", address="2001:db8::1", protocol="rtmp", role="play", key=KEY, agent="VLC \U0001f600", seconds=3.5,
    bytes_in=10, bytes_out=5000, kbps_in_30s=0.1, kbps_out_30s=2000.5, since=7.5, worker=0,
)  # fmt: skip


def test_streams_and_clients_there_and_back() -> None:
    streams = [STREAM, replace(STREAM, video=None, audio=None, metadata={}, watchers=frozenset())]
    again = STREAMS.from_json(STREAMS.to_json(streams))
    assert again == streams and isinstance(again[0].key, StreamKey)
    assert [type(value) for value in again[0].metadata.values()] == [float, bool, str, int]
    clients = [CLIENT, replace(CLIENT, key=None)]
    assert CLIENTS.from_json(CLIENTS.to_json(clients)) == clients
    assert STREAMS.from_json(STREAMS.to_json([])) == []


def test_recordings_there_and_back() -> None:
    recording = RecordingFacts(
        stream="live/cam", state="waiting", since=1.25, file="", seconds=0.0, bytes=0, files=2, dropped=3,
        error="No space left on device",
    )  # fmt: skip
    assert RECORDINGS.from_json(RECORDINGS.to_json([recording])) == [recording]
    with pytest.raises(ValueError):
        RECORDINGS.from_json(RECORDINGS.to_json([recording]).replace(b"waiting", b"paused"))


@pytest.mark.parametrize("change", [{"key": ["a"]}, {"key": "a/b"}, {"viewers": {"rtmp": "x"}}, {"watchers": 5},
                                    {"metadata": {"a": [1]}}, {"video": {"width": 5}}, {"since": None}])  # fmt: skip
def test_what_are_no_streams(change: dict[str, Any]) -> None:
    [entry] = json.loads(STREAMS.to_json([STREAM]))
    assert STREAMS.from_json(json.dumps([entry]).encode()) == [STREAM]
    with pytest.raises(ValueError):
        STREAMS.from_json(json.dumps([entry | change]).encode())
    del entry["state"]
    with pytest.raises(ValueError):
        STREAMS.from_json(json.dumps([entry]).encode())


def test_lists_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    one = len(CLIENTS.to_json([CLIENT]))
    monkeypatch.setattr(reports, "MAX_BYTES", one * 5)
    data = CLIENTS.to_json([CLIENT] * 12)
    assert len(data) <= one * 5 and CLIENTS.from_json(data) == [CLIENT] * 3
    monkeypatch.setattr(reports, "MAX_ENTRIES", 2)
    assert CLIENTS.from_json(CLIENTS.to_json(iter([CLIENT] * 12))) == [CLIENT] * 2
    with pytest.raises(ValueError, match="3 entries"):
        CLIENTS.from_json(data)
    with pytest.raises(ValueError, match="bytes"):
        CLIENTS.from_json(b"[]" + b" " * one * 5)


# A process


def test_load() -> None:
    used = 0.0
    load = Load(lambda: used)
    assert load.share == 0
    load.sample(0.0)
    assert load.share == 0
    for second in range(1, 20):
        used += 0.25 if second < 10 else 0.75
        load.sample(float(second))
    assert load.share == 0.75
    used += 5 * 0.1
    load.sample(24.0)
    assert load.share == 0.1


def test_memory() -> None:
    before = reports.resident_bytes()
    block = bytearray(os.urandom(1 << 20) * 32)
    assert reports.resident_bytes() > before + (16 << 20)
    del block
