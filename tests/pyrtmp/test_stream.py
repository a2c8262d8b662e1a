"""``pyrtmp.stream``: one live stream with fake publishers, viewers and taps, and logs in plain memory."""

from __future__ import annotations

import os
import sys
import time as clocks
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pyrtmp import amf
from pyrtmp.delay import Standing
from pyrtmp.forms import RtmpForm
from pyrtmp.lane import Lane
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import (
    ANNOUNCED_SECONDS,
    HEAD_BYTES,
    MAX_MISSED,
    MESSAGE_OVERHEAD,
    TRACKS_SECONDS,
    State,
    Stream,
)
from pyrtmp.timeline import MIN_GAP_MS
from pyrtmp.wirelog import PlainStorage

AVC_HEADER = b"\x17\x00\x00\x00\x00config"
KEY = b"\x17\x01\x00\x00\x00key"
INTER = b"\x27\x01\x00\x00\x00inter"
AAC_HEADER = b"\xaf\x00\x12\x10"
AAC = b"\xaf\x01aac"
H263_KEY = b"\x12key"
H263_INTER = b"\x22inter"
MP3 = b"\x2fmp3"
ANNOUNCED = {"videocodecid": 7.0, "audiocodecid": 10.0}


def video(timestamp: int, payload: bytes) -> Message:
    return Message(VIDEO, timestamp, 1, payload)


def audio(timestamp: int, payload: bytes) -> Message:
    return Message(AUDIO, timestamp, 1, payload)


def metadata(timestamp: int = 0, /, **facts: Any) -> Message:
    return Message(DATA_AMF0, timestamp, 1, amf.encode0("onMetaData", facts))


def track_header(track: int, config: bytes = b"config") -> bytes:
    """Enhanced RTMP: video, multitrack, one track, SequenceStart, hvc1."""
    return bytes((0x96, 0x00)) + b"hvc1" + bytes((track,)) + config


class FakeJournal:
    def __init__(self) -> None:
        self.errors: list[dict[str, Any]] = []

    def debug(self, event: str, **facts: Any) -> None:
        raise AssertionError(event)

    info = warning = debug

    def error(self, event: str, **facts: Any) -> None:
        self.errors.append({"event": event, **facts})


class FakePublisher:
    id = "publisher"

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        raise AssertionError("a stream displaces nobody")


class FakeViewer:
    fd = -1
    segment = None
    offset = 0
    ready = False

    def __init__(self, lane: Lane) -> None:
        self.calls: list[object] = []
        lane.viewers[self] = None

    def serve(self, now: float) -> bool:
        raise AssertionError("a stream serves nobody")

    def fell_short(self, limit: int, now: float) -> None:
        raise AssertionError("a stream serves nobody")

    def failed(self, error: OSError) -> None:
        raise AssertionError("a stream serves nobody")

    def end(self) -> None:
        self.calls.append("end")

    def signal(self, live: bool) -> None:
        self.calls.append(live)


class FakeTap:
    def __init__(self) -> None:
        self.got: list[Message | str] = []

    def on_messages(self, messages: Sequence[Message]) -> None:
        self.got += messages

    def on_restart(self) -> None:
        self.got.append("restart")

    def on_end(self) -> None:
        self.got.append("end")

    @property
    def brief(self) -> list[tuple[int, bytes] | str]:
        return [(m.timestamp, m.payload) if isinstance(m, Message) else m for m in self.got]


class FakeKeeper(FakeTap):
    def on_leave(self) -> None:
        self.got.append("leave")


class BrokenTap(FakeTap):
    """Fails in whatever is called after ``attach``."""

    broken = False

    def on_messages(self, messages: Sequence[Message]) -> None:
        if self.broken:
            raise ZeroDivisionError("messages")

    def on_restart(self) -> None:
        raise ZeroDivisionError("restart")

    def on_end(self) -> None:
        raise ZeroDivisionError("end")


class FullStorage(PlainStorage):
    """Memory that can run out."""

    full = False

    def write(self, buffers: Sequence[bytes]) -> None:
        if FullStorage.full:
            raise OSError("no memory")
        super().write(buffers)


class Subject:
    """A stream under test, and what became of it."""

    def __init__(self, storage: Callable[[], PlainStorage] = PlainStorage, **settings: Any) -> None:
        self.journal = FakeJournal()
        self.woken = 0
        self.now = 100.0
        self.stream = Stream(
            StreamKey("live", "cam"), StreamSettings(**settings), self._wake, self.now, storage, self.journal
        )

    def _wake(self, stream: Stream) -> None:
        assert stream is self.stream
        assert not stream.queued
        stream.queued = True
        self.woken += 1

    def round(self) -> None:
        self.stream.queued = False
        self.stream.flush()

    def begin(self, *messages: Message) -> FakePublisher:
        publisher = FakePublisher()
        self.stream.begin(publisher, self.now)
        self.push(*messages)
        return publisher

    def push(self, *messages: Message, after: float = 0.0) -> None:
        self.now += after
        for message in messages:
            self.stream.last_message = self.now
            self.stream.push(message)

    def leave(self, after: float = 0.0) -> None:
        self.now += after
        self.stream.leave(self.now)

    def lane(self) -> Lane:
        return self.stream.lane(RtmpForm())


def decode(data: bytes) -> list[tuple[int, bytes]]:
    """``(timestamp, payload)`` of RTMP records with short payloads."""
    return [
        (int.from_bytes(data[start + 1 : start + 4], "big"), data[start + 12 : end])
        for _, start, end in RtmpForm().records(data)
    ]


def joiner(lane: Lane) -> list[tuple[int, bytes]] | None:
    """What a viewer that joins now is sent, or None when it must wait."""
    segment, data = lane.log.join, b""
    if segment is None:
        return None
    offset = lane.log.join_offset
    while segment is not None:
        data += segment.read(offset, segment.size - offset)
        segment, offset = segment.next, 0
    return decode(lane.head() + data)


def whole(lane: Lane) -> list[tuple[int, bytes]]:
    """What a viewer sees that has been there since the lane was made (one segment)."""
    return decode(lane.log.tail.read(0, lane.log.tail.size))


@pytest.fixture
def subject() -> Subject:
    return Subject()


# Publishing


def test_a_stream_is_awaited_then_live_then_gone_then_ended(subject: Subject) -> None:
    stream = subject.stream
    assert (stream.state, stream.live) == (State.AWAITED, False)
    publisher = subject.begin()
    assert (stream.state, stream.live, stream.publisher, stream.sessions) == (State.LIVE, True, publisher, 1)
    subject.leave(3.0)
    assert (stream.state, stream.live, stream.publisher, stream.since) == (State.GONE, False, None, subject.now)
    stream.end(110.0)
    assert (stream.state, stream.since) == (State.ENDED, 110.0)


def test_end_with_a_publisher_lets_it_go(subject: Subject) -> None:
    subject.begin(video(0, KEY))
    lane = subject.lane()
    viewer = FakeViewer(lane)
    subject.push(video(40, INTER))
    subject.stream.end(subject.now)
    assert subject.stream.publisher is None
    assert viewer.calls == ["end"]
    assert whole(lane)[-1] == (40, INTER), "what was left is handed on before the end"


def test_facts_are_counted_as_messages_pass(subject: Subject) -> None:
    subject.begin(video(0, AVC_HEADER), video(0, KEY), audio(3, AAC), video(40, INTER), video(1960, KEY))
    stream = subject.stream
    assert (stream.messages_in, stream.video_frames, stream.key_frames) == (5, 3, 2)
    assert stream.bytes_in == len(AVC_HEADER + KEY + AAC + INTER + KEY)
    assert (stream.gop_ms, stream.time, stream.tracks) == (1960, 1960, (True, True))


def test_the_distance_between_key_frames_is_known_for_groups_too_long_to_keep() -> None:
    subject = Subject(gop_seconds=5)
    subject.begin(video(0, KEY), *(video(t, INTER) for t in range(1000, 20_000, 1000)), video(20_000, KEY))
    assert subject.stream.gop_ms == 20_000


def test_the_distance_between_key_frames_is_not_counted_from_sound_or_backwards(subject: Subject) -> None:
    subject.begin(audio(0, AAC), video(30, AVC_HEADER), video(40, KEY))
    assert subject.stream.gop_ms == 0
    subject.push(video(2040, KEY), video(10, KEY))
    assert subject.stream.gop_ms == 2000


def test_nobody_is_woken_for_a_stream_nobody_wants(subject: Subject) -> None:
    subject.begin(video(0, KEY))
    assert subject.woken == 0
    subject.lane()
    subject.push(video(40, INTER), video(80, INTER))
    assert subject.woken == 1, "once until the round has come"
    subject.round()
    subject.push(video(120, INTER))
    assert subject.woken == 2


# Head and join points


def test_the_head_is_metadata_then_headers_whatever_their_order(subject: Subject) -> None:
    about = metadata(0, **ANNOUNCED)
    subject.begin(audio(0, AAC_HEADER), video(0, AVC_HEADER), about, video(5000, KEY), audio(5010, AAC))
    assert joiner(subject.lane()) == [
        (0, about.payload), (5000, AAC_HEADER), (5000, AVC_HEADER), (5000, KEY), (5010, AAC)
    ]  # fmt: skip


def test_a_lane_from_the_beginning_and_a_lane_made_late_offer_joiners_the_same(subject: Subject) -> None:
    early = subject.lane()
    for n in range(5):
        subject.push(video(n * 1000, AVC_HEADER), video(n * 1000, KEY), audio(n * 1000 + 20, AAC))
        subject.round()
    expected = [(4000, AVC_HEADER), (4000, KEY), (4020, AAC)]
    assert joiner(early) == expected
    early.form = _Renamed()
    subject.stream.lanes = {"other": early}
    assert joiner(subject.lane()) == expected


class _Renamed(RtmpForm):
    name = "other"


def test_messages_not_flushed_yet_are_neither_lost_nor_doubled_for_a_new_lane(subject: Subject) -> None:
    subject.stream.attach(tap := FakeTap())
    subject.begin(video(0, KEY), video(40, INTER))
    lane = subject.lane()
    subject.push(video(80, INTER))
    subject.round()
    assert whole(lane) == tap.brief == [(0, KEY), (40, INTER), (80, INTER)]


def test_a_header_after_the_join_point_goes_inline_then_into_the_next_head(subject: Subject) -> None:
    lane = subject.lane()
    subject.begin(video(0, AVC_HEADER), video(0, KEY), audio(5, AAC_HEADER), audio(10, AAC))
    subject.round()
    expected = [(0, AVC_HEADER), (0, KEY), (5, AAC_HEADER), (10, AAC)]
    assert joiner(lane) == expected
    subject.push(video(2000, KEY))
    subject.round()
    assert joiner(lane) == [(2000, AVC_HEADER), (2000, AAC_HEADER), (2000, KEY)]


def test_a_changed_header_goes_inline_and_bumps_the_generation_an_equal_one_does_not(subject: Subject) -> None:
    changed = AVC_HEADER + b"2"
    lane = subject.lane()
    subject.begin(video(0, AVC_HEADER), metadata(0), video(0, KEY))
    subject.round()
    first = lane.generation
    subject.push(metadata(1990), video(2000, AVC_HEADER), video(2000, KEY))
    subject.round()
    assert lane.generation == first
    subject.push(video(4000, changed), video(4000, KEY))
    subject.round()
    assert lane.generation > first
    about = metadata(0).payload
    assert joiner(lane) == [(0, about), (4000, changed), (4000, KEY)]
    assert whole(lane) == [
        (0, AVC_HEADER), (0, about), (0, KEY), (1990, about), (2000, AVC_HEADER), (2000, KEY), (4000, changed),
        (4000, KEY),
    ]  # fmt: skip


def test_each_track_keeps_its_header(subject: Subject) -> None:
    default, second = track_header(0), track_header(1)
    newer = track_header(1, b"newer")
    subject.begin(video(0, default), video(0, second), video(0, KEY))
    assert joiner(subject.lane()) == [(0, default), (0, second), (0, KEY)]
    subject.push(video(40, newer), video(2000, KEY))
    subject.round()
    assert joiner(subject.lane()) == [(2000, default), (2000, newer), (2000, KEY)]


def test_a_header_for_several_tracks_replaces_theirs(subject: Subject) -> None:
    both = bytes((0x96, 0x10)) + b"hvc1" + b"\x00\x00\x00\x01a" + b"\x01\x00\x00\x01b"
    subject.begin(video(0, track_header(0)), video(0, track_header(1)), video(0, both), video(0, KEY))
    assert joiner(subject.lane()) == [(0, both), (0, KEY)]


def test_the_head_is_bounded_and_what_does_not_fit_is_relayed(subject: Subject) -> None:
    big = [video(0, track_header(track, bytes(HEAD_BYTES // 4))) for track in range(200)]
    subject.stream.attach(tap := FakeTap())
    subject.begin(video(0, AVC_HEADER), *big, video(0, KEY))
    subject.round()
    assert len(tap.got) == 202
    head = subject.lane().head()
    assert AVC_HEADER not in head, "replaced by that of track 0"
    assert HEAD_BYTES // 2 < len(head) < HEAD_BYTES + 1000
    subject.push(video(0, AVC_HEADER + bytes(HEAD_BYTES)), video(2000, KEY))
    subject.round()
    assert subject.stream.head_payload(VIDEO) == big[1].payload, "a header out of date is worse than none"


def test_data_that_is_no_metadata_or_does_not_decode_is_relayed_only(subject: Subject) -> None:
    cue = Message(DATA_AMF0, 10, 1, amf.encode0("onCuePoint", {}))
    broken = Message(DATA_AMF0, 20, 1, b"\x02\xff\xff")
    empty = Message(DATA_AMF0, 30, 1, b"")
    lane = subject.lane()
    subject.begin(video(0, KEY), cue, broken, empty)
    subject.round()
    assert whole(lane)[1:] == [(10, cue.payload), (20, broken.payload), (30, b"")]
    assert joiner(lane) == whole(lane)
    assert subject.stream.metadata == {}


def test_metadata_without_an_object_says_nothing(subject: Subject) -> None:
    subject.begin(metadata(0, width=640.0))
    assert subject.stream.metadata == {"width": 640.0}
    subject.push(Message(DATA_AMF0, 0, 1, amf.encode0("onMetaData")))
    assert subject.stream.metadata == {}


def test_joiners_wait_for_a_key_frame(subject: Subject) -> None:
    lane = subject.lane()
    subject.begin(video(0, AVC_HEADER), video(0, INTER), audio(3, AAC), video(40, INTER))
    subject.round()
    assert joiner(lane) is None
    subject.push(video(80, KEY))
    subject.round()
    assert joiner(lane) == [(80, AVC_HEADER), (80, KEY)]


@pytest.mark.parametrize("flushed", [True, False])
def test_a_group_beyond_its_seconds_is_no_join_point(flushed: bool) -> None:
    subject = Subject(gop_seconds=10)
    lane = subject.lane()
    subject.begin(video(0, KEY), video(10_000, INTER))
    if flushed:
        subject.round()
        assert joiner(lane)
    subject.push(video(10_001, INTER))
    subject.round()
    assert joiner(lane) is None
    assert subject.stream.gop_size == (0, 0)
    subject.push(video(10_040, INTER), video(11_000, KEY), video(11_040, INTER))
    subject.round()
    assert joiner(lane) == [(11_000, KEY), (11_040, INTER)]


def test_a_clock_set_back_does_not_stretch_the_group() -> None:
    subject = Subject(gop_seconds=10)
    subject.begin(video(3_600_000, KEY), video(0, INTER))
    assert subject.stream.gop_size == (0, 0)


@pytest.mark.parametrize("payload", [INTER, INTER + bytes(5000), b""])
def test_a_group_is_bounded_in_bytes_however_small_its_messages_are(payload: bytes) -> None:
    subject = Subject(gop_bytes=100_000)
    subject.begin(video(0, KEY))
    most = 0
    for _ in range(100_000 // MESSAGE_OVERHEAD):
        most = max(most, subject.stream.gop_size[1])
        assert most <= 100_000
        subject.push(video(0, payload))
        if not subject.stream.gop_size[0]:
            break
    else:
        raise AssertionError("never dropped")
    assert most > 100_000 - len(payload) - 2 * MESSAGE_OVERHEAD


def test_what_a_message_counts_beside_its_payload_covers_what_python_needs() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [Message(VIDEO, 1 << 40 | n, 1, bytes(bytearray(40))) for n in range(10_000)]
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used / len(kept) <= 40 + MESSAGE_OVERHEAD


def test_sound_alone_every_record_is_a_join_point_and_nothing_piles_up(subject: Subject) -> None:
    lane = subject.lane()
    subject.begin(audio(0, AAC_HEADER))
    for n in range(1000):
        subject.push(audio(n * 23, AAC))
        assert subject.stream.gop_size[0] == 1
        assert [each.timestamp for each in subject.stream.recent] == [n * 23]
        if n % 10 == 9:
            subject.round()
            assert joiner(lane) == [(n * 23, AAC_HEADER), (n * 23, AAC)]
    assert subject.stream.tracks == (True, False)


def test_sound_first_then_a_picture(subject: Subject) -> None:
    lane = subject.lane()
    subject.begin(audio(0, AAC_HEADER), audio(0, AAC), audio(23, AAC))
    subject.round()
    assert joiner(lane) == [(23, AAC_HEADER), (23, AAC)]
    subject.push(video(40, AVC_HEADER), audio(46, AAC), video(50, KEY), audio(69, AAC))
    subject.round()
    assert joiner(lane) == [(50, AAC_HEADER), (50, AVC_HEADER), (50, KEY), (69, AAC)]


def test_an_empty_audio_message_is_neither_sound_nor_a_join_point(subject: Subject) -> None:
    lane = subject.lane()
    subject.begin(audio(0, b""), audio(0, b"\xaf"))
    subject.round()
    assert joiner(lane) is None
    assert subject.stream.tracks == (False, False)


def test_a_picture_alone(subject: Subject) -> None:
    subject.begin(video(0, AVC_HEADER), video(0, KEY), video(40, INTER))
    assert joiner(subject.lane()) == [(0, AVC_HEADER), (0, KEY), (40, INTER)]
    assert subject.stream.tracks == (False, True)


def test_codecs_without_a_header(subject: Subject) -> None:
    subject.begin(video(0, H263_KEY), audio(5, MP3), video(40, H263_INTER))
    assert joiner(subject.lane()) == [(0, H263_KEY), (5, MP3), (40, H263_INTER)]
    assert subject.stream.head_payload(VIDEO) == H263_KEY
    assert subject.stream.head_payload(AUDIO) == MP3


def test_head_payload_is_the_newest_header_or_nothing(subject: Subject) -> None:
    assert subject.stream.head_payload(VIDEO) == b""
    subject.begin(video(0, AVC_HEADER), video(0, AVC_HEADER + b"2"), video(0, KEY))
    assert subject.stream.head_payload(VIDEO) == AVC_HEADER + b"2"
    assert subject.stream.head_payload(AUDIO) == b""


# Timeline (its arithmetic: test_timeline.py)


def test_headers_stamped_zero_before_and_between_frames_that_began_elsewhere(subject: Subject) -> None:
    begin = 3_000_000
    subject.stream.attach(tap := FakeTap())
    subject.begin(metadata(0), video(0, AVC_HEADER), video(begin, KEY), video(0, AVC_HEADER), video(begin + 40, INTER))
    subject.round()
    assert [m.timestamp for m in tap.got if isinstance(m, Message)] == [0, 0, begin, begin, begin + 40]
    assert joiner(subject.lane()) == [
        (0, metadata(0).payload), (begin, AVC_HEADER), (begin, KEY), (begin, AVC_HEADER), (begin + 40, INTER)
    ]  # fmt: skip


def test_roll_over_inside_a_group(subject: Subject) -> None:
    begin = (1 << 32) - 20
    subject.stream.attach(tap := FakeTap())
    subject.begin(video(begin, KEY), video(20, INTER))
    subject.round()
    assert [m.timestamp for m in tap.got if isinstance(m, Message)] == [begin, (1 << 32) + 20]
    assert subject.stream.gop_size[0] == 2


# Another publisher


def test_a_returning_publisher_continues_the_timeline_for_those_who_stayed(subject: Subject) -> None:
    lane = subject.lane()
    viewer = FakeViewer(lane)
    for number in range(10):
        subject.begin(metadata(0), video(0, AVC_HEADER), video(0, KEY), audio(10, AAC), video(40, INTER))
        subject.round()
        subject.leave(1.0)
        subject.now += 1.5
        assert viewer.calls[-1] is False
        assert (viewer.calls[-2] is True) if number else len(viewer.calls) == 1
    times = [timestamp for timestamp, payload in whole(lane)]
    assert times == sorted(times)
    assert [t for t, payload in whole(lane) if payload == KEY] == [n * 2540 for n in range(10)]


def test_nothing_of_the_old_session_is_a_join_point_or_head_after_a_takeover(subject: Subject) -> None:
    lane = subject.lane()
    subject.begin(metadata(0, old=1.0), audio(0, AAC_HEADER), video(0, AVC_HEADER), video(0, KEY))
    subject.round()
    subject.push(video(2000, KEY))
    subject.leave()
    assert joiner(lane) is None
    subject.begin(video(0, AVC_HEADER + b"2"), video(0, INTER))
    subject.round()
    assert joiner(lane) is None
    assert joiner(subject.lane()) is None
    assert subject.stream.metadata == {}
    assert subject.stream.tracks == (False, True)
    subject.push(video(40, KEY))
    subject.round()
    assert joiner(lane) == [(2140, AVC_HEADER + b"2"), (2140, KEY)]


def test_an_equal_head_of_another_publisher_is_another_generation(subject: Subject) -> None:
    lane = subject.lane()
    subject.begin(video(0, AVC_HEADER), video(0, KEY))
    subject.round()
    before = lane.generation
    subject.leave()
    subject.begin(video(0, AVC_HEADER), video(0, KEY))
    subject.round()
    assert lane.generation > before


def test_taps_get_the_rest_of_the_old_session_before_they_hear_of_the_new_one(subject: Subject) -> None:
    subject.stream.attach(tap := FakeTap())
    subject.begin(video(0, KEY))
    subject.leave(1.0)
    subject.begin(video(500, KEY))
    subject.stream.end(subject.now)
    assert tap.brief == [(0, KEY), "restart", (1000, KEY), "end"]
    assert not subject.journal.errors


# Taps


def test_a_tap_gets_head_and_group_then_everything(subject: Subject) -> None:
    subject.begin(metadata(0), video(0, AVC_HEADER), video(1000, KEY), video(1040, INTER))
    subject.stream.attach(tap := FakeTap())
    group = [(1000, metadata(0).payload), (1000, AVC_HEADER), (1000, KEY), (1040, INTER)]
    assert tap.brief == group
    subject.push(video(1080, INTER))
    subject.round()
    assert tap.brief == [*group, (1080, INTER)]
    subject.stream.detach(tap)
    subject.stream.detach(tap)
    subject.push(video(1120, INTER))
    subject.round()
    assert len(tap.got) == 5
    assert not subject.stream.wanted


def test_a_tap_that_comes_while_there_is_no_join_point_still_gets_the_headers(subject: Subject) -> None:
    subject.begin(video(0, AVC_HEADER), audio(70, AAC_HEADER), video(80, INTER))
    subject.stream.attach(tap := FakeTap())
    assert tap.brief == [(80, AVC_HEADER), (80, AAC_HEADER)]


def test_head_messages_for_a_tap_are_copies(subject: Subject) -> None:
    header = video(7, AVC_HEADER)
    subject.begin(header, video(1000, KEY))
    subject.stream.attach(FakeTap())
    assert header.timestamp == 7


@pytest.mark.parametrize("ends", [False, True])
def test_a_keeper_gets_everything_of_one_publisher_and_is_nobody_who_watches(subject: Subject, ends: bool) -> None:
    stream = subject.stream
    subject.begin(video(0, AVC_HEADER), video(1000, KEY))
    stream.keep(keeper := FakeKeeper())
    stream.keep(gone := FakeKeeper())
    subject.push(video(1040, INTER))
    subject.round()
    assert not stream.wanted
    stream.detach(gone)
    subject.push(video(1080, INTER))
    if ends:
        stream.end(subject.now)
    else:
        subject.leave()
        subject.begin(video(0, KEY))
        subject.round()
    first = [(1000, AVC_HEADER), (1000, KEY), (1040, INTER)]
    assert keeper.brief == [*first, (1080, INTER), "leave"] and gone.brief == first


def test_a_broken_tap_is_detached_and_hurts_nobody(subject: Subject) -> None:
    stream = subject.stream
    stream.attach(broken := BrokenTap())
    stream.attach(tap := FakeTap())
    lane = subject.lane()
    broken.broken = True
    subject.begin(video(0, KEY))
    subject.round()
    subject.push(video(40, INTER))
    subject.round()
    assert tap.brief == whole(lane) == [(0, KEY), (40, INTER)]
    assert subject.journal.errors == [
        {
            "event": "callback_failed",
            "subject": "live/cam",
            "callback": "BrokenTap.on_messages",
            "error": "ZeroDivisionError('messages')",
        }
    ]


def test_a_tap_broken_in_restart_or_end_hurts_nobody(subject: Subject) -> None:
    subject.stream.attach(BrokenTap())
    subject.stream.attach(tap := FakeTap())
    subject.begin()
    subject.leave()
    subject.begin()
    assert tap.got == ["restart"]
    subject.stream.attach(BrokenTap())
    subject.stream.end(subject.now)
    assert tap.got == ["restart", "end"]
    assert len(subject.journal.errors) == 2


def test_what_fails_in_attach_is_the_callers_and_nothing_is_attached(subject: Subject) -> None:
    broken = BrokenTap()
    broken.broken = True
    with pytest.raises(ZeroDivisionError):
        subject.stream.attach(broken)
    assert not subject.stream.wanted


def test_a_tap_may_detach_itself_and_others_while_it_is_called(subject: Subject) -> None:
    stream = subject.stream

    class Leaving(FakeTap):
        def on_messages(self, messages: Sequence[Message]) -> None:
            super().on_messages(messages)
            if messages:
                stream.detach(self)

    stream.attach(first := Leaving())
    stream.attach(second := FakeTap())
    subject.begin(video(0, KEY))
    subject.round()
    subject.push(video(40, INTER))
    subject.round()
    assert first.brief == [(0, KEY)]
    assert second.brief == [(0, KEY), (40, INTER)]


# Waiters and viewers


def test_waiters_are_called_once_when_a_publisher_starts(subject: Subject) -> None:
    stream, called = subject.stream, []
    stream.wait(one := lambda: called.append("one"))
    stream.wait(two := lambda: called.append("two"))
    stream.wait(three := lambda: called.append("three"))
    stream.wait(one)
    assert stream.waiting == 3
    assert stream.wanted
    stream.stop_waiting(two)
    stream.stop_waiting(two)
    subject.begin()
    subject.leave()
    subject.begin()
    assert called == ["one", "three"]
    assert stream.waiting == 0
    stream.stop_waiting(three)


def test_waiters_are_called_when_the_stream_ends(subject: Subject) -> None:
    states: list[State] = []
    subject.stream.wait(lambda: states.append(subject.stream.state))
    subject.stream.end(subject.now)
    assert states == [State.ENDED]


def test_waiters_may_open_lanes_and_wait_again(subject: Subject) -> None:
    lanes: list[Lane] = []
    subject.stream.wait(lambda: lanes.append(subject.lane()))
    subject.stream.wait(again := lambda: subject.stream.wait(again))
    subject.begin(video(0, AVC_HEADER), video(0, KEY))
    subject.round()
    assert subject.stream.waiting == 1
    assert joiner(lanes[0]) == [(0, AVC_HEADER), (0, KEY)]


def test_a_broken_waiter_or_viewer_hurts_nobody(subject: Subject) -> None:
    class BrokenViewer(FakeViewer):
        def end(self) -> None:
            raise ZeroDivisionError

        def signal(self, live: bool) -> None:
            raise ZeroDivisionError

    def broken() -> None:
        raise ZeroDivisionError

    lane = subject.lane()
    BrokenViewer(lane)
    good = FakeViewer(lane)
    called: list[bool] = []
    subject.stream.wait(broken)
    subject.stream.wait(lambda: called.append(True))
    subject.begin()
    subject.leave()
    subject.stream.end(subject.now)
    assert called == [True]
    assert good.calls == [False, "end"]
    assert len(subject.journal.errors) == 3


def test_viewers_may_leave_while_they_are_told(subject: Subject) -> None:
    lane = subject.lane()

    class Leaving(FakeViewer):
        def end(self) -> None:
            super().end()
            del lane.viewers[self]

    viewers = [Leaving(lane) for _ in range(3)]
    subject.begin()
    subject.stream.end(subject.now)
    assert [viewer.calls for viewer in viewers] == [["end"]] * 3
    assert subject.stream.viewers == 0


def test_idle_lanes_are_given_back_and_made_anew_from_the_group(subject: Subject) -> None:
    subject.begin(video(0, AVC_HEADER), video(0, KEY))
    lane = subject.lane()
    viewer = FakeViewer(lane)
    subject.stream.drop_idle_lanes()
    assert subject.lane() is lane
    assert (subject.stream.viewers, subject.stream.wanted) == (1, True)
    del lane.viewers[viewer]
    subject.stream.drop_idle_lanes()
    assert not subject.stream.wanted
    assert lane.log.segments == 0
    woken = subject.woken
    subject.push(video(40, INTER))
    assert subject.woken == woken, "nobody wants it"
    assert joiner(subject.lane()) == [(0, AVC_HEADER), (0, KEY), (40, INTER)]


def test_an_ended_stream_asks_for_one_more_round_only_for_its_lanes(subject: Subject) -> None:
    subject.begin(video(0, KEY))
    subject.stream.end(subject.now)
    assert subject.woken == 0
    other = Subject()
    FakeViewer(other.lane())
    other.begin(video(0, KEY))
    assert other.woken == 1
    other.stream.end(other.now)
    assert other.woken == 1, "it is in the set already"


# Memory


def test_a_log_that_cannot_be_written_is_reported_by_flush_and_hurts_no_tap() -> None:
    FullStorage.full = False
    subject = Subject(FullStorage)
    subject.stream.attach(tap := FakeTap())
    lane = subject.lane()
    subject.begin(video(0, KEY))
    subject.round()
    FullStorage.full = True
    subject.push(video(2000, KEY))
    with pytest.raises(OSError, match="no memory"):
        subject.round()
    assert joiner(lane) is None
    assert len(tap.got) == 2
    subject.push(video(2040, INTER))
    subject.leave()
    with pytest.raises(OSError, match="no memory"):
        subject.round()
    subject.round()
    FullStorage.full = False
    subject.begin(video(0, KEY))
    subject.round()
    assert joiner(lane) == [(2140, KEY)]


def test_a_new_lane_without_memory_for_the_group_waits_for_the_next_join_point() -> None:
    FullStorage.full = True
    subject = Subject(FullStorage)
    subject.begin(video(0, KEY))
    lane = subject.lane()
    assert joiner(lane) is None
    with pytest.raises(OSError, match="no memory"):
        subject.round()
    FullStorage.full = False
    subject.push(video(2000, KEY))
    subject.round()
    assert joiner(lane) == [(2000, KEY)]


def test_a_publisher_costs_little_beside_its_group() -> None:
    count = 50
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        subjects = [Subject() for _ in range(count)]
        for subject in subjects:
            facts = {f"fact{n}": "x" * 20 for n in range(40)}
            subject.begin(metadata(0, **facts), video(0, AVC_HEADER + bytes(2000)), audio(0, AAC_HEADER))
            subject.push(*(video(n * 40, KEY if n % 50 == 0 else INTER) for n in range(501)))
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used / count < 32 * 1024


# Which tracks there are


@pytest.mark.parametrize(
    ("messages", "at_once"),
    [
        ([video(0, AVC_HEADER), audio(0, AAC_HEADER)], True),
        ([metadata(0, **ANNOUNCED), video(0, AVC_HEADER), audio(0, AAC_HEADER)], True),
        ([metadata(0, audiocodecid=10.0), audio(0, AAC_HEADER)], True),
        ([metadata(0, videocodecid=7.0), video(0, AVC_HEADER)], True),
        ([metadata(0, videocodecid=2.0), video(0, H263_KEY)], True),
        ([audio(0, AAC_HEADER)], False),
        ([video(0, AVC_HEADER), video(0, KEY)], False),
        ([video(0, H263_KEY)], False),
        ([metadata(0, title="no word of tracks"), video(0, AVC_HEADER)], False),
    ],
)  # fmt: skip
def test_tracks_are_known_when_those_announced_are_seen_or_soon(messages: list[Message], at_once: bool) -> None:
    subject = Subject()
    subject.begin()
    assert not subject.stream.tracks_known
    # That the publisher took its time to begin says nothing of its tracks.
    subject.push(*(Message(m.type, m.timestamp, m.msid, m.payload) for m in messages), after=9.0)
    assert subject.stream.tracks_known is at_once
    subject.push(audio(1, b""), after=TRACKS_SECONDS + 0.01)
    assert subject.stream.tracks_known


@pytest.mark.parametrize("payload", [AAC_HEADER, AAC])
def test_a_track_that_is_announced_and_never_comes_is_not_waited_for_for_ever(payload: bytes) -> None:
    subject = Subject()
    subject.begin(metadata(0, **ANNOUNCED), audio(0, payload))
    subject.push(audio(23, AAC), after=ANNOUNCED_SECONDS - 0.01)
    assert not subject.stream.tracks_known
    subject.push(audio(46, AAC), after=0.02)
    assert subject.stream.tracks_known
    assert subject.stream.tracks == (True, False)


def test_nothing_is_known_of_a_stream_without_sound_and_picture(subject: Subject) -> None:
    subject.begin(metadata(0, **ANNOUNCED))
    subject.push(metadata(0), after=60.0)
    assert not subject.stream.tracks_known


def test_the_next_publisher_may_have_other_tracks(subject: Subject) -> None:
    subject.begin(video(0, AVC_HEADER), audio(0, AAC_HEADER))
    assert subject.stream.tracks_known
    subject.leave()
    subject.begin(metadata(0, audiocodecid=10.0))
    assert not subject.stream.tracks_known
    subject.push(audio(0, AAC))
    assert subject.stream.tracks_known
    assert subject.stream.tracks == (True, False)


# A publisher in another process

linux = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is Linux")


class FakeRelay(FakePublisher):
    """Writes lanes as another process does, and remembers what it was asked."""

    def __init__(self, stream: Stream, tracks: tuple[bool, bool] | None = (True, True)) -> None:
        self.stream = stream
        self.tracks = tracks
        self.told = ""
        self.standing: Standing | None = None
        self.lanes: list[Lane] = []
        self.closed: list[Lane] = []
        self.ended = 0

    def open(self, lane: Lane) -> None:
        self.lanes.append(lane)

    def close(self, lane: Lane) -> None:
        self.closed.append(lane)

    def end(self) -> None:
        self.ended += 1

    def write(self, *messages: Message, head: Sequence[Message] = (), generation: int = 1, now: float = 0.0) -> None:
        """The messages are a new segment and begin with a join point."""
        for lane in self.lanes:
            lane.set_head(wire(lane, *head), generation)
            data = wire(lane, *messages)
            fd = os.memfd_create("test", os.MFD_CLOEXEC)
            os.write(fd, data)
            segment = lane.log.adopt(fd, messages[0].timestamp)
            lane.log.extend(len(data))
            lane.log.join_at(segment, 0)
        self.stream.follow(messages[-1].timestamp, now)


def wire(lane: Lane, *messages: Message) -> bytes:
    buffers: list[bytes] = []
    lane.form.encode(messages, buffers)
    return b"".join(buffers)


class FakeOutlet:
    """Another process whose viewers watch; reads the log when it is told that it is over."""

    def __init__(self, stream: Stream, lane: Lane | None = None) -> None:
        self.lane = lane
        self.rest: list[tuple[int, bytes]] | None = None
        stream.outlets[self] = None

    def serve(self) -> None:
        raise AssertionError("rounds serve outlets")

    def gone(self) -> None:
        assert self.rest is None, "told twice"
        self.rest = [] if self.lane is None else whole(self.lane)


@linux
def test_a_relayed_stream_is_live_and_releases_those_who_wait(subject: Subject) -> None:
    stream = subject.stream
    calls: list[bool] = []
    stream.wait(lambda: calls.append(stream.relayed))
    relay = FakeRelay(stream)
    stream.begin(relay, subject.now, relay)
    assert (stream.live, stream.relayed, stream.relay, stream.publisher) == (True, True, relay, relay)
    assert calls == [True]
    assert stream.sessions == 1


@linux
def test_lanes_of_a_relayed_stream_are_the_relays_to_write(subject: Subject) -> None:
    stream = subject.stream
    relay = FakeRelay(stream)
    stream.begin(relay, subject.now, relay)
    lane = subject.lane()
    assert relay.lanes == [lane] and lane.log.in_kernel
    assert joiner(lane) is None
    relay.write(video(1000, KEY), video(1040, INTER), head=[video(0, AVC_HEADER)], now=subject.now)
    assert joiner(lane) == [(0, AVC_HEADER), (1000, KEY), (1040, INTER)]
    assert (stream.time, stream.last_message) == (1040, subject.now)
    # Nobody reads it: the relay is told before the log goes.
    stream.drop_idle_lanes()
    assert relay.closed == [lane] and not stream.lanes
    assert subject.lane() is relay.lanes[1]
    assert not subject.journal.errors
    stream.end(subject.now)
    stream.drop_idle_lanes()


@linux
def test_lanes_that_are_there_before_the_relay_go_on_with_it(subject: Subject) -> None:
    subject.begin(video(0, AVC_HEADER), video(0, KEY))
    stream = subject.stream
    lane = subject.lane()
    viewer = FakeViewer(lane)
    subject.leave()
    relay = FakeRelay(stream)
    stream.begin(relay, subject.now, relay)
    assert relay.lanes == [lane] and viewer.calls == [False, True]
    assert joiner(lane) is None
    generation = lane.generation
    relay.write(video(500, KEY), head=[video(0, AVC_HEADER)], generation=1)
    assert joiner(lane) == [(0, AVC_HEADER), (500, KEY)]
    assert lane.generation == generation + 1
    lane.viewers.clear()
    stream.drop_idle_lanes()


@linux
@pytest.mark.parametrize("gap", [0.0, 2.0])
def test_a_publisher_here_goes_on_where_the_relay_had_got(subject: Subject, gap: float) -> None:
    stream = subject.stream
    relay = FakeRelay(stream)
    stream.begin(relay, subject.now, relay)
    lane = subject.lane()
    viewer = FakeViewer(lane)
    relay.write(video(90_000, KEY), generation=3, now=subject.now)
    subject.leave(gap)
    generation = lane.generation
    assert relay.ended == 1 and stream.relay is None and not stream.relayed
    subject.begin(video(7, AVC_HEADER), video(7, KEY))
    subject.round()
    start = 90_000 + max(int(gap * 1000), MIN_GAP_MS)
    assert joiner(lane) == [(start, AVC_HEADER), (start, KEY)]
    assert viewer.calls == [False, True]
    # By chance the head here has the number of that there, and is another one all the same.
    assert stream._join_generation == 3 and lane.generation == generation + 1
    assert relay.closed == []  # all of it is over, not one lane
    subject.leave()
    assert relay.ended == 1
    lane.viewers.clear()
    stream.drop_idle_lanes()


@linux
def test_a_stream_goes_from_relay_to_relay(subject: Subject) -> None:
    stream = subject.stream
    lane = None
    for time in (1000, 2000, 500):
        relay = FakeRelay(stream)
        stream.begin(relay, subject.now, relay)
        lane = subject.lane()
        FakeViewer(lane)
        relay.write(video(time, KEY), head=[video(0, AVC_HEADER)])
        assert joiner(lane) == [(0, AVC_HEADER), (time, KEY)]
        generation = lane.generation
        stream.leave(subject.now)
        assert relay.ended == 1 and joiner(lane) is None
    assert lane is not None and generation == 3 and stream.sessions == 3
    lane.viewers.clear()
    stream.drop_idle_lanes()


def test_the_tracks_of_a_relayed_stream_are_what_the_relay_says(subject: Subject) -> None:
    stream = subject.stream
    subject.begin(video(0, KEY), audio(0, AAC))
    assert stream.tracks_known
    subject.leave()
    relay = FakeRelay(stream, None)
    stream.begin(relay, subject.now, relay)
    subject.now += 100
    assert not stream.tracks_known and stream.tracks == (False, False)
    relay.tracks = (True, False)
    assert stream.tracks_known and stream.tracks == (True, False)
    subject.leave()
    subject.begin(video(0, KEY))
    assert stream.tracks == (False, True)


def test_the_end_of_a_relayed_stream_ends_the_relay_once(subject: Subject) -> None:
    relay = FakeRelay(subject.stream)
    subject.stream.begin(relay, subject.now, relay)
    viewer = FakeViewer(subject.lane())
    subject.stream.end(subject.now)
    assert relay.ended == 1 and viewer.calls == ["end"]
    subject.stream.lanes["rtmp"].viewers.clear()
    subject.stream.drop_idle_lanes()
    assert not subject.stream.lanes and relay.closed == []


def test_a_relay_that_breaks_hurts_nobody(subject: Subject) -> None:
    relay = FakeRelay(subject.stream)
    relay.end = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    subject.stream.begin(relay, subject.now, relay)
    subject.leave()
    assert [error["callback"] for error in subject.journal.errors]
    subject.begin(video(0, KEY))


# Viewers in other processes


def test_a_stream_watched_by_another_process_is_wanted(subject: Subject) -> None:
    subject.begin()
    assert not subject.stream.wanted
    outlet = FakeOutlet(subject.stream)
    assert subject.stream.wanted
    del subject.stream.outlets[outlet]
    assert not subject.stream.wanted


@pytest.mark.parametrize("how", ["leave", "end"])
def test_outlets_are_told_of_the_end_when_the_rest_is_in_the_log(subject: Subject, how: str) -> None:
    subject.begin(video(0, KEY))
    lane = subject.lane()
    lane.pins += 1
    outlets = [FakeOutlet(subject.stream, lane), FakeOutlet(subject.stream)]
    subject.push(video(40, INTER))  # no round comes before the end
    if how == "leave":
        subject.leave()
    else:
        subject.stream.end(subject.now)
    assert outlets[0].rest == [(0, KEY), (40, INTER)]
    assert outlets[1].rest == []
    assert not subject.stream.outlets
    if how == "leave":
        subject.stream.end(subject.now)  # they are told once


def test_an_outlet_that_breaks_hurts_nobody(subject: Subject) -> None:
    subject.begin()
    broken = FakeOutlet(subject.stream)
    broken.gone = lambda: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    other = FakeOutlet(subject.stream)
    subject.leave()
    assert other.rest == [] and len(subject.journal.errors) == 1


def test_a_lane_pinned_by_another_process_is_kept(subject: Subject) -> None:
    subject.begin(video(0, KEY))
    lane = subject.lane()
    lane.pins += 1
    subject.stream.drop_idle_lanes()
    assert subject.lane() is lane
    subject.push(video(40, INTER))
    subject.round()
    assert whole(lane) == [(0, KEY), (40, INTER)]
    lane.pins -= 1
    subject.stream.drop_idle_lanes()
    assert not subject.stream.lanes and lane.log.segments == 0


# Copies of one publish


def copied(first: int, last: int, *, gop: int = 5, start: int = 1000) -> list[Message]:
    """A group of pictures every ``gop``, with sound at the same times; fresh objects, as off the wire."""
    found = []
    for n in range(first, last):
        time = start + 40 * n
        found.append(video(time, (KEY if n % gop == 0 else INTER) + b"%d" % n))
        found.append(audio(time, AAC + b"%d" % n))
    return found


def heads() -> list[Message]:
    return [metadata(**ANNOUNCED), video(1000, AVC_HEADER), audio(1000, AAC_HEADER)]


class Copies(Subject):
    """A stream with a viewer and a tap that were there from the beginning."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.tap = FakeTap()
        self.stream.attach(self.tap)
        self.stream.wait(lambda: None)

    def copy(self, *messages: Message, lineage: str = "one", hops: tuple[str, ...] = ("a",)) -> FakePublisher:
        publisher = FakePublisher()
        self.stream.begin(publisher, self.now, lineage=lineage, hops=hops, pulled=True)
        self.push(*messages)
        return publisher

    def seen(self) -> list[tuple[int, bytes] | str]:
        self.round()
        return self.tap.brief

    def times(self) -> list[int]:
        self.round()
        return [m.timestamp for m in self.tap.got if isinstance(m, Message) and m.payload[1] == 1]


def brief(*messages: Message) -> list[tuple[int, bytes] | str]:
    return [(m.timestamp, m.payload) for m in messages]


@pytest.fixture
def copies() -> Copies:
    return Copies()


@pytest.mark.parametrize("upto", range(2, 24))
@pytest.mark.parametrize("left", [True, False], ids=["after a pause", "at once"])
def test_another_copy_goes_on_with_the_very_next_message(copies: Copies, upto: int, left: bool) -> None:
    """Wherever the first one stops, and whichever key frame before that the other one begins with."""
    all_of_it = copied(0, 15)
    copies.copy(*heads(), *copied(0, 15)[:upto])
    if left:
        copies.leave(0.5)
        copies.copy()
    else:
        copies.stream.overlap()
    copies.push(*heads(), *copied((upto - 1) // 2 // 5 * 5, 15))
    assert copies.seen() == brief(*heads(), *all_of_it)
    assert copies.stream.lineage == copies.stream.source == "one"


def test_a_copy_that_lags_behind_is_left_out_until_it_has_more(copies: Copies) -> None:
    copies.copy(*heads(), *copied(0, 13))
    copies.stream.overlap()
    copies.push(*heads())
    for message in copied(0, 13):
        copies.push(message)
        assert copies.seen() == brief(*heads(), *copied(0, 13))
    copies.push(*copied(13, 15))
    assert copies.seen() == brief(*heads(), *copied(0, 15))


@pytest.mark.parametrize("first", [11, 15, 17, 20])
def test_where_some_was_missed_it_goes_on_at_a_key_frame(copies: Copies, first: int) -> None:
    copies.copy(*heads(), *copied(0, 8))
    copies.leave(0.1)
    copies.copy(*heads(), *copied(first, 30))
    key = -(-first // 5) * 5
    assert copies.seen() == brief(*heads(), *copied(0, 8), *copied(key, 30))
    assert copies.stream.lineage == "one"


def test_a_header_that_changed_while_it_was_missed_comes_before_the_key_frame(copies: Copies) -> None:
    copies.copy(*heads(), *copied(0, 8))
    copies.leave(0.1)
    changed = [metadata(1800, width=1.0), video(1800, AVC_HEADER + b"2"), audio(1800, AAC_HEADER)]
    other = Message(DATA_AMF0, 1800, 1, amf.encode0("onTextData", {}))
    copies.copy(*changed, other, *copied(20, 22))
    seen = copies.seen()[len(heads()) + 16 :]
    new = [(time_at(seen, 0), changed[0].payload), (time_at(seen, 1), changed[1].payload)]
    assert seen == [*new, *brief(*copied(20, 22))]
    assert 1280 <= time_at(seen, 0) <= time_at(seen, 1) <= 1800
    # Whoever joins now is given the new ones.
    head = joiner(copies.lane())
    assert head is not None and [payload for _, payload in head[:3]] == [
        changed[0].payload, AAC_HEADER, AVC_HEADER + b"2"
    ]


def time_at(seen: list[tuple[int, bytes] | str], index: int) -> int:
    found = seen[index]
    assert isinstance(found, tuple)
    return found[0]


def test_an_older_header_is_not_shown_again(copies: Copies) -> None:
    """The other copy's head is of its key frame; since then the header changed, and viewers have seen that."""
    change = audio(1300, AAC_HEADER + b"2")
    first = [*heads(), *copied(0, 7), change, *copied(7, 8)]
    copies.copy(*first)
    copies.stream.overlap()
    copies.push(*heads(), *copied(5, 7), audio(1300, AAC_HEADER + b"2"), *copied(7, 10))
    assert copies.seen() == brief(*first, *copied(8, 10))
    assert copies.stream.head_payload(AUDIO) == AAC_HEADER + b"2"


def test_sound_alone_goes_on(copies: Copies) -> None:
    sounds = [audio(1000 + 23 * n, AAC + b"%d" % n) for n in range(20)]
    fresh = [audio(1000 + 23 * n, AAC + b"%d" % n) for n in range(5, 20)]
    copies.copy(audio(1000, AAC_HEADER), *sounds[:10])
    copies.leave(0.1)
    copies.copy(audio(1000, AAC_HEADER), *fresh)
    # One record may be what was missed: the next one is as good.
    assert copies.seen() == brief(audio(1000, AAC_HEADER), *[audio(1000 + 23 * n, AAC + b"%d" % n) for n in range(20)])


@pytest.mark.parametrize("settings", [{}, {"gop_seconds": 0.1}, {"gop_bytes": 500}], ids=["", "long", "large"])
def test_copies_go_on_over_and_over(settings: dict[str, Any]) -> None:
    """Also where the group of pictures is too long to keep, and where no key frame came since the change before."""
    copies = Copies(**settings)
    copies.copy(*heads(), *copied(0, 3))
    for upto in (5, 6, 8, 13, 14):
        copies.leave()
        copies.copy(*heads(), *copied(0, upto))
    for upto in (16, 17, 18, 23, 24):
        copies.stream.overlap()
        copies.push(*heads(), *copied(0, upto))
    assert copies.seen() == brief(*heads(), *copied(0, 24))


def test_times_that_roll_over(copies: Copies) -> None:
    start = (1 << 32) - 250

    def wire(first: int, last: int) -> list[Message]:
        return [Message(m.type, m.timestamp & 0xFFFFFFFF, 1, m.payload) for m in copied(first, last, start=start)]

    copies.copy(*wire(0, 8))
    copies.leave()
    copies.copy(*wire(5, 12))
    assert copies.seen() == brief(*copied(0, 12, start=start))


def test_viewers_stay_and_are_told_and_taps_hear_of_no_restart(copies: Copies) -> None:
    copies.copy(*heads(), *copied(0, 8))
    viewer = FakeViewer(copies.lane())
    copies.leave(1.0)
    assert not copies.stream.live
    copies.copy(*heads(), *copied(5, 12), hops=("b", "c"))
    assert viewer.calls == [False, True]
    assert "restart" not in copies.seen()
    assert copies.stream.sessions == 2 and copies.stream.hops == ("b", "c") and copies.stream.pulled


def test_another_lineage_is_later_and_has_another_name(copies: Copies) -> None:
    stream = copies.stream
    copies.copy(*heads(), *copied(0, 8))
    assert stream.lineage == "one"
    copies.leave(2.0)
    copies.copy(*heads(), *copied(5, 8, start=0), lineage="two")
    renamed = stream.lineage
    assert renamed not in ("one", "two") and stream.source == "two"
    times = copies.times()
    assert times == sorted(times) and times[16] == 1280 + 2000
    # A copy of that one goes on with the very next message all the same: what it is called here is of no account.
    copies.leave(0.5)
    copies.copy(*heads(), *copied(5, 12, start=0), lineage="two")
    assert stream.lineage == renamed
    assert [time - times[16] for time in copies.times()[16:]] == [40 * n for n in range(7) for _ in range(2)]
    copies.leave()
    copies.copy(*copied(8, 15), lineage="one")
    assert stream.lineage not in ("one", "two", renamed)
    times = copies.times()
    assert times == sorted(times)


def test_who_publishes_here_between_two_copies_is_no_copy(copies: Copies) -> None:
    """Its clock is its own: the copy that comes back does not go on where it stopped."""
    stream = copies.stream
    copies.copy(*heads(), *copied(0, 8, start=5_000_000))
    copies.leave(1.0)
    copies.begin(*heads(), *copied(0, 8, start=10))
    own = stream.lineage
    assert own != "one" and not stream.pulled and not stream.hops
    copies.leave(1.0)
    copies.begin(*heads(), *copied(0, 8, start=10))
    assert stream.lineage == own  # the encoder that comes back keeps the timeline it has here
    copies.leave(1.0)
    copies.copy(*heads(), *copied(10, 18, start=5_000_000))
    assert stream.lineage not in ("one", own)
    times = copies.times()
    assert times == sorted(times) and times[-1] - times[0] < 10_000


@linux
def test_a_copy_behind_a_relay_is_another_timeline(copies: Copies) -> None:
    stream = copies.stream
    copies.copy(*heads(), *copied(0, 8))
    copies.leave()
    relay = FakeRelay(stream)
    stream.begin(relay, copies.now, relay)
    assert stream.lineage != "one"
    stream.follow(2000, copies.now)
    stream.leave(copies.now)
    copies.copy(*heads(), *copied(5, 8))
    assert stream.lineage != "one"
    times = copies.times()
    assert times == sorted(times) and times[16] >= 2000


def test_headers_kept_while_a_copy_catches_up_are_bounded(copies: Copies) -> None:
    copies.copy(*heads(), *copied(0, 8))
    copies.stream.overlap()
    copies.push(*(video(1000, track_header(track % 256)) for track in range(1000)))
    assert len(copies.stream._missed) <= MAX_MISSED
    copies.push(*copied(8, 11))
    assert not copies.stream._missed
    assert copies.seen()[-2:] == brief(*copied(10, 11))


def test_how_far_ahead_a_copy_is(copies: Copies) -> None:
    copies.copy(*copied(0, 8, start=(1 << 32) - 200))
    assert copies.stream.ahead((1 << 32) - 200) == -280
    assert copies.stream.ahead(80) == 0
    assert copies.stream.ahead(100) == 20


# What nodes that pull it compare (pyrtmp.delay)


def test_where_a_stream_stands_is_its_newest_key_frame(subject: Subject) -> None:
    subject.begin(*heads())
    assert subject.stream.standing is None and subject.stream.source_id == "publisher"
    subject.push(video(1000, KEY))
    came = subject.now
    subject.push(video(1040, INTER), after=0.04)
    assert subject.stream.standing == Standing(1000, came)
    subject.push(video(3000, KEY), after=2.0)
    assert subject.stream.standing == Standing(3000, subject.now)
    subject.leave()
    subject.begin(*heads())
    assert subject.stream.standing is None  # of another publisher


def test_a_copy_stands_where_its_pull_has_measured(copies: Copies) -> None:
    copies.copy(*heads(), video(1000, KEY))
    assert copies.stream.standing is None and copies.stream.arrivals.newest is not None
    measured = copies.stream.measured = Standing(1000, copies.now, 0.25)
    assert copies.stream.standing is measured


def test_a_relayed_stream_stands_where_its_holder_says(subject: Subject) -> None:
    relay = FakeRelay(subject.stream)
    subject.stream.begin(relay, subject.now, relay)
    assert subject.stream.standing is None
    relay.standing = Standing(1000, 7.0, 0.25)
    assert subject.stream.standing is relay.standing


def test_no_stream_is_born_in_the_future() -> None:
    """HLS players count up from there, and some of them one by one."""
    now = clocks.time() * 1000
    for ahead, believed in ((60_000, True), (10 * 365 * 86_400_000, False)):
        born = int(now + ahead)
        stream = Subject().stream
        stream.begin(FakePublisher(), 0.0, lineage="elsewhere", birth=f"{born}.0.0.0.0.0")
        assert stream.birth is not None
        assert (stream.birth.wall == born) == believed and stream.birth.wall < now + 3_600_000
