from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hls.segmenter import Draft, Segmenter
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message

AVC_HEADER = b"\x17\x00\x00\x00\x00\x01\x64\x00\x1f"
AVC_HEADER_2 = b"\x17\x00\x00\x00\x00\x01\x64\x00\x28"
AAC_HEADER = b"\xaf\x00\x12\x10"
AAC_HEADER_2 = b"\xaf\x00\x11\x90"


def key(timestamp: int, size: int = 20) -> Message:
    return Message(VIDEO, timestamp, 1, b"\x17\x01\x00\x00\x00" + bytes(size))


def inter(timestamp: int) -> Message:
    return Message(VIDEO, timestamp, 1, b"\x27\x01\x00\x00\x00" + bytes(20))


def audio(timestamp: int) -> Message:
    return Message(AUDIO, timestamp, 1, b"\xaf\x01" + bytes(20))


def video_header(payload: bytes = AVC_HEADER) -> Message:
    return Message(VIDEO, 0, 1, payload)


def audio_header(payload: bytes = AAC_HEADER) -> Message:
    return Message(AUDIO, 0, 1, payload)


def picture(start: int, seconds: float, *, gop: int, interval: int = 40, sound: bool = True) -> list[Message]:
    """Video with a key frame every ``gop`` ms, and audio in between."""
    messages = []
    for timestamp in range(start, start + round(seconds * 1000), interval):
        messages.append(key(timestamp) if (timestamp - start) % gop == 0 else inter(timestamp))
        if sound:
            messages.append(audio(timestamp + 13))
    return messages


def segmenter(fragment: float = 2.0, max_fragment: float = 10.0, max_bytes: int = 1 << 20) -> Segmenter:
    return Segmenter(fragment=fragment, max_fragment=max_fragment, max_bytes=max_bytes)


def feed(subject: Segmenter, messages: list[Message]) -> list[Draft]:
    return [draft for message in messages if (draft := subject.push(message)) is not None]


def cut(messages: list[Message], subject: Segmenter | None = None) -> list[Draft]:
    subject = subject or segmenter()
    drafts = feed(subject, messages)
    last = subject.restart()
    return [*drafts, last] if last is not None else drafts


def spans(drafts: list[Draft]) -> list[tuple[int, int]]:
    return [(draft.start, draft.duration) for draft in drafts]


def test_cuts_at_key_frames() -> None:
    drafts = cut([video_header(), audio_header(), *picture(0, 8, gop=2000)])
    assert spans(drafts) == [(0, 2000), (2000, 2000), (4000, 2000), (6000, 2013)]
    assert all(draft.independent for draft in drafts)
    assert [draft.discontinuity for draft in drafts] == [True, False, False, False]
    assert all(draft.messages[0].payload[0] == 0x17 for draft in drafts)
    assert {draft.video_header.data for draft in drafts if draft.video_header} == {AVC_HEADER[5:]}
    assert {draft.audio_header.data for draft in drafts if draft.audio_header} == {AAC_HEADER[2:]}


def test_every_frame_is_in_one_draft_and_in_order() -> None:
    messages = picture(500, 20, gop=1500)
    drafts = cut([video_header(), audio_header(), *messages])
    assert [message for draft in drafts for message in draft.messages] == messages


def test_several_groups_of_pictures_make_a_fragment() -> None:
    assert spans(cut(picture(0, 6, gop=500, interval=20))) == [(0, 2000), (2000, 2000), (4000, 2013)]


def test_a_longer_group_of_pictures_makes_a_longer_fragment() -> None:
    subject = segmenter()
    drafts = cut(picture(0, 20, gop=4800), subject)
    assert [draft.duration for draft in drafts] == [4800, 4800, 4800, 4800, 813]
    assert subject.target_duration == 5


def test_a_key_frame_a_millisecond_early_still_cuts() -> None:
    messages = []
    for number in range(300):  # 29.97 frames a second, rounded down: 2.002 s or 2.001 s, and half the grid besides
        timestamp = number * 1001 // 30
        messages.append(key(timestamp) if number % 30 == 0 else inter(timestamp))
    assert [draft.duration for draft in cut(messages)][:4] == [2002] * 4
    early = [key(0), inter(1000), key(1999), inter(3000), key(3998), inter(5000), key(5997)]
    assert [draft.duration for draft in cut(early)][:3] == [1999, 1999, 1999]


@pytest.mark.parametrize("gop", [40, 500, 1000, 2000, 3000, 8000])
def test_whoever_joins_later_comes_to_cut_at_the_same_frames(gop: int) -> None:
    messages = picture(33, 60, gop=gop, interval=20)
    whole = [draft.start for draft in cut(messages)]
    for joined_at in range(33, 12_000, max(gop, 280)):
        tail = [message for message in messages if message.timestamp >= joined_at]
        starts = [draft.start for draft in cut(tail)]
        assert starts[0] == joined_at
        assert starts[2:] == [start for start in whole if start >= starts[2]]


@pytest.mark.parametrize("gop", [360, 720, 920, 1320, 1800, 1920, 2520])
def test_regular_key_frames_never_need_a_forced_cut(gop: int) -> None:
    for joined_at in range(0, 5 * gop, gop):
        drafts = cut(picture(joined_at, 60, gop=gop))
        assert all(draft.independent for draft in drafts)
        assert max(draft.duration for draft in drafts) < 1900 + gop


def test_without_video_it_cuts_by_time() -> None:
    subject = segmenter()
    drafts = cut([audio_header(), *(audio(round(n * 21.333)) for n in range(500))], subject)
    assert [draft.duration for draft in drafts][1:-1] == pytest.approx([2000] * (len(drafts) - 2), abs=22)
    assert all(draft.independent and not draft.has_video for draft in drafts)


def test_video_waits_for_its_first_key_frame() -> None:
    drafts = cut([inter(0), inter(40), audio(50), key(80), inter(120)])
    assert [message.timestamp for message in drafts[0].messages] == [50, 80, 120]
    assert drafts[0].independent


def test_key_frames_that_do_not_come() -> None:
    subject = segmenter()
    drafts = feed(subject, [*picture(0, 4, gop=2000), *(inter(t) for t in range(4000, 60_000, 40))])
    assert subject.target_duration == 2
    assert max(draft.duration for draft in drafts) == 2480  # rounds to 2, one frame more would not
    assert [draft.independent for draft in drafts[:3]] == [True, True, False]
    assert not any(draft.discontinuity for draft in drafts[1:])


def test_key_frames_that_never_come_while_the_target_is_open() -> None:
    subject = segmenter(max_fragment=10)
    drafts = feed(subject, [key(0), *(inter(t) for t in range(40, 40_000, 40))])
    assert [draft.duration for draft in drafts] == [10_000, 10_000, 10_000]
    assert subject.target_duration == 10


@given(
    st.lists(st.tuples(st.booleans(), st.integers(-300, 6000)), min_size=2, max_size=60),
    st.sampled_from([1.0, 2.0, 5.0]),
)
@settings(max_examples=200)
def test_no_duration_rounds_above_the_target(steps: list[tuple[bool, int]], fragment: float) -> None:
    subject = segmenter(fragment)
    drafts = []
    targets = set()
    timestamp = 0
    frames = [key(0)]
    for is_key, step in steps:
        timestamp = max(timestamp + step, 0)
        frames.append(key(timestamp) if is_key else inter(timestamp))
    for frame in frames:
        draft = subject.push(frame)
        if draft is not None:
            drafts.append(draft)
        targets.add(subject.target_duration)
    last = subject.restart()
    assert last is not None
    drafts.append(last)
    targets.add(subject.target_duration)
    assert len(targets - {None}) == 1
    target = (targets - {None}).pop()
    assert target is not None
    assert all(math.floor(draft.duration / 1000 + 0.5) <= target for draft in drafts)
    assert {draft.target_duration for draft in drafts} == {target}
    assert [message for draft in drafts for message in draft.messages] == frames


@pytest.mark.parametrize("step", [-201, -5000, 1001, 3_600_000])
def test_a_jump_closes_the_segment(step: int) -> None:
    first = picture(100_000, 1, gop=2000)
    latest = first[-2] if step < 0 else first[-1]  # its own track's, or any track's
    second = picture(latest.timestamp + step, 1, gop=2000)
    drafts = cut([*first, *second])
    assert [draft.messages for draft in drafts] == [first, second]
    assert [draft.discontinuity for draft in drafts] == [True, True]
    assert drafts[0].duration == 960 + 13 + 40


@pytest.mark.parametrize("step", [-200, -1, 0, 1000])
def test_a_small_step_does_not(step: int) -> None:
    first = [key(100_000), inter(100_040)]
    drafts = cut([*first, inter(100_040 + step)])
    assert len(drafts) == 1


def test_a_jump_in_the_middle_of_a_group_of_pictures_loses_no_frame() -> None:
    messages = [key(0), inter(40), inter(50_000), inter(50_040), inter(51_000), key(52_000)]
    drafts = cut(messages)
    assert [message for draft in drafts for message in draft.messages] == messages
    assert [(draft.discontinuity, draft.independent) for draft in drafts] == [
        (True, True), (True, False), (False, True)]  # fmt: skip


def test_a_slow_picture_is_not_a_series_of_jumps() -> None:
    drafts = cut([key(n * 1500) for n in range(20)])
    assert sum(draft.discontinuity for draft in drafts) == 2  # the beginning, and before the pace was known


def test_audio_and_video_that_are_seconds_apart_stay_together() -> None:
    messages = [m for n in range(0, 4000, 40) for m in (audio(n), (key if n % 2000 == 0 else inter)(n + 60_000))]
    drafts = cut(messages)
    assert sum(draft.discontinuity for draft in drafts) == 2
    assert [message for draft in drafts for message in draft.messages] == messages


@pytest.mark.parametrize("header", [video_header(AVC_HEADER_2), audio_header(AAC_HEADER_2)])
def test_another_sequence_header_closes_the_segment(header: Message) -> None:
    head = [video_header(), audio_header()]
    drafts = cut([*head, *picture(0, 1, gop=2000), *head, header, *picture(1000, 1, gop=2000)])
    assert spans(drafts) == [(0, 1013), (1000, 1013)] or spans(drafts) == [(0, 1013), (1000, 1000)]
    assert [draft.discontinuity for draft in drafts] == [True, True]
    assert (drafts[0].video_header, drafts[0].audio_header) != (drafts[1].video_header, drafts[1].audio_header)


def test_repeated_headers_are_no_news() -> None:
    messages = []
    for number in range(4):
        messages += [video_header(), audio_header(), *picture(number * 2000, 2, gop=2000)]
    assert [draft.discontinuity for draft in cut(messages)] == [True, False, False, False]


def test_video_waits_for_a_key_frame_after_another_header() -> None:
    drafts = cut([video_header(), key(0), video_header(AVC_HEADER_2), inter(40), key(80)])
    assert [[message.timestamp for message in draft.messages] for draft in drafts] == [[0], [80]]


def test_a_restart_is_a_discontinuity() -> None:
    subject = segmenter()
    assert feed(subject, [video_header(), audio_header(), *picture(0, 1, gop=2000)]) == []
    closed = subject.restart()
    assert closed is not None and closed.duration == 1013
    assert subject.restart() is None
    drafts = cut([inter(1100), *picture(1200, 1, gop=2000)], subject)
    assert drafts[0].discontinuity and drafts[0].start == 1200
    assert drafts[0].video_header is None


def test_memory_bounds_the_open_draft() -> None:
    subject = segmenter(max_bytes=100_000)
    drafts = feed(subject, [key(0, 30_000), *(key(n, 30_000) for n in range(1, 50))])
    assert max(draft.size for draft in drafts) <= 100_000
    assert len(drafts) >= 15
    tiny = segmenter(max_bytes=100_000)
    drafts = feed(tiny, [key(0), *(audio(1) for _ in range(2000))])
    assert drafts and max(len(draft.messages) for draft in drafts) < 1000


def test_what_hls_has_no_place_for_is_left_out() -> None:
    legacy = [
        Message(VIDEO, 0, 1, b"\x12sorenson"),
        Message(AUDIO, 0, 1, b"\xb2speex"),
        Message(AUDIO, 0, 1, b""),
        Message(VIDEO, 0, 1, b""),
        Message(VIDEO, 0, 1, b"\x57\x00"),  # a command frame
        Message(DATA_AMF0, 0, 1, b"\x02\x00\x0aonMetaData"),
        Message(VIDEO, 0, 1, b"\x87"),  # ModEx cut short
        Message(VIDEO, 0, 1, b"\x96\x01avc1"),  # multitrack cut short
        Message(AUDIO, 0, 1, b"\x95\x11"),
    ]
    assert cut(legacy) == []
    assert [len(draft.messages) for draft in cut([*legacy, key(0), *legacy, audio(20)])] == [2]


def test_only_the_default_track_counts() -> None:
    def multitrack(track: int, packet_type: int, frame_type: int) -> Message:
        body = b"hvc1" + bytes([track]) + b"\x00\x00\x00body"
        return Message(VIDEO, 0, 1, bytes([0x80 | frame_type << 4 | 6, packet_type]) + body)

    drafts = cut([
        multitrack(0, 0, 1), multitrack(1, 0, 1), multitrack(1, 1, 1), multitrack(0, 1, 1),
        multitrack(1, 0, 1), multitrack(0, 0, 1), multitrack(1, 1, 1), multitrack(0, 1, 2),
    ])  # fmt: skip
    assert [len(draft.messages) for draft in drafts] == [2]
    assert [message.payload[6] for message in drafts[0].messages] == [0, 0]


@given(st.lists(st.tuples(st.sampled_from([AUDIO, VIDEO, DATA_AMF0]), st.binary(max_size=24), st.integers(0, 1 << 40))))
def test_any_bytes_are_survived(parts: list[tuple[int, bytes, int]]) -> None:
    for draft in cut([Message(type, timestamp, 1, payload) for type, payload, timestamp in parts]):
        assert draft.messages and draft.duration >= 0
