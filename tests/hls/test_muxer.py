from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import av
import pytest

from hls.muxer import Muxed, Muxer, UnsupportedError, _boxes
from hls.segmenter import Draft, Segmenter
from hls.settings import Container
from pyrtmp.media import FRAME, KEY, parse_audio, parse_video
from pyrtmp.message import AUDIO, VIDEO, Message

MakeFeed = Callable[..., list[Message]]
WRAP_MS = (1 << 33) // 90
"""Where the 33 bits of a PTS are used up: 26.5 hours."""


@dataclass(frozen=True)
class Sample:
    dts: float
    pts: float
    data: bytes
    key: bool


def cut(messages: list[Message], fragment: float = 1.0) -> list[Draft]:
    segmenter = Segmenter(fragment=fragment, max_fragment=10.0, max_bytes=1 << 24)
    drafts = [draft for message in messages if (draft := segmenter.push(message)) is not None]
    last = segmenter.restart()
    return [*drafts, last] if last else drafts


def mux_all(drafts: list[Draft], container: Container = "auto") -> list[Muxed]:
    muxer = Muxer(container)
    try:
        return [muxer.mux(draft) for draft in drafts]
    finally:
        muxer.close()


def sent(messages: list[Message]) -> dict[str, list[Sample]]:
    """What the messages carry, seconds."""
    samples: dict[str, list[Sample]] = {"video": [], "audio": []}
    for message in messages:
        dts = message.timestamp / 1000
        if message.type == VIDEO:
            for tag in parse_video(message.payload):
                if tag.kind in (FRAME, KEY):
                    samples["video"].append(Sample(dts, dts + tag.composition_time / 1000, tag.data, tag.key))
        elif message.type == AUDIO:
            for sound in parse_audio(message.payload):
                if sound.kind == FRAME and sound.data:
                    samples["audio"].append(Sample(dts, dts, sound.data, True))
    return samples


def demux(data: bytes, format: str) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {"video": [], "audio": []}
    with av.open(io.BytesIO(data), format=format) as source:
        for packet in source.demux():
            if packet.size and packet.dts is not None and packet.pts is not None:
                samples[packet.stream.type].append(Sample(
                    float(packet.dts * packet.time_base), float(packet.pts * packet.time_base), bytes(packet),
                    packet.is_keyframe))  # fmt: skip
    return samples


def split_nals(data: bytes, *, annex_b: bool) -> list[bytes]:
    """The NAL units of an H.264 access unit, without delimiters and parameter sets."""
    nals = []
    if annex_b:
        nals = [part.rstrip(b"\0") for part in data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")]
    else:
        position = 0
        while position < len(data):
            size = int.from_bytes(data[position : position + 4], "big")
            nals.append(data[position + 4 : position + 4 + size].rstrip(b"\0"))
            position += 4 + size
    return [nal for nal in nals if nal and nal[0] & 0x1F not in (7, 8, 9)]


def assert_same_times(got: list[Sample], expected: list[Sample], tolerance: float = 0.0006) -> None:
    assert len(got) == len(expected)
    shift = got[0].dts - expected[0].dts
    for one, other in zip(got, expected, strict=True):
        assert one.dts - other.dts == pytest.approx(shift, abs=tolerance)
        assert one.pts - other.pts == pytest.approx(shift, abs=tolerance)


@pytest.mark.parametrize("bframes", [0, 2])
def test_transport_stream_has_the_frames_that_were_sent(make_feed: MakeFeed, bframes: int) -> None:
    messages = make_feed("libx264", "aac", seconds=4, bframes=bframes)
    segments = mux_all(cut(messages))
    assert len(segments) == 4
    assert [(segment.init, segment.lost) for segment in segments] == [(None, 0)] * 4
    expected = sent(messages)
    assert any(sample.pts > sample.dts for sample in expected["video"]) == bool(bframes)
    got = demux(b"".join(segment.data for segment in segments), "mpegts")
    assert [split_nals(sample.data, annex_b=True) for sample in got["video"]] == [
        split_nals(sample.data, annex_b=False) for sample in expected["video"]]  # fmt: skip
    assert [sample.key for sample in got["video"]] == [sample.key for sample in expected["video"]]
    assert [sample.data[7:] for sample in got["audio"]] == [sample.data for sample in expected["audio"]]  # 7: ADTS
    assert_same_times(got["video"], expected["video"])
    assert_same_times(got["audio"], expected["audio"], 0.0015)  # small frames share a PES packet
    shift = got["video"][0].dts - expected["video"][0].dts
    assert got["audio"][0].dts - expected["audio"][0].dts == pytest.approx(shift, abs=0.001)
    assert all(sample.pts >= sample.dts for sample in got["video"])


@pytest.mark.parametrize(
    ("video", "audio", "bframes"),
    [
        ("libx264", "aac", 2),
        ("libx265", "libopus", 2),
        ("libsvtav1", "aac", 0),
        ("libvpx-vp9", "flac", 0),
        ("", "ac3", 0),
        ("", "libmp3lame", 0),
        ("libx265", "", 0),
    ],
)
def test_fragmented_mp4_has_the_frames_that_were_sent(
    make_feed: MakeFeed, video: str, audio: str, bframes: int
) -> None:
    messages = make_feed(video, audio, seconds=3, bframes=bframes)
    drafts = [draft for draft in cut(messages) if any(len(message.payload) > 5 for message in draft.messages)]
    segments = mux_all(drafts, "fmp4")
    inits = {segment.init for segment in segments}
    assert len(segments) >= 3 and len(inits) == 1
    init = inits.pop()
    assert init is not None
    expected = sent(messages)
    got = demux(init + b"".join(segment.data for segment in segments), "mp4")
    for kind in ("video", "audio"):
        # "TDs SHOULD be removed" (AV1 in ISOBMFF 2.4): temporal delimiters are not part of a sample.
        delimiter = b"\x12\x00" if video == "libsvtav1" and kind == "video" else b""
        assert [sample.data for sample in got[kind]] == [
            sample.data.removeprefix(delimiter) for sample in expected[kind]]  # fmt: skip
        if got[kind]:
            assert got[kind][0].dts == pytest.approx(expected[kind][0].dts, abs=0.0006)
            assert_same_times(got[kind], expected[kind])


@pytest.mark.parametrize(
    ("video", "audio", "container", "expected"),
    [
        ("libx264", "aac", "auto", "ts"),
        ("", "libmp3lame", "auto", "ts"),
        ("libx265", "aac", "auto", "fmp4"),
        ("libx264", "libopus", "auto", "fmp4"),
        ("", "ac3", "auto", "fmp4"),
        ("libx265", "aac", "ts", "ts"),
        ("", "ac3", "ts", "ts"),
        ("libsvtav1", "aac", "ts", "fmp4"),
        ("libx264", "aac", "fmp4", "fmp4"),
    ],
)
def test_the_container_follows_the_codecs(
    make_feed: MakeFeed, video: str, audio: str, container: Container, expected: str
) -> None:
    (first, *_) = mux_all(cut(make_feed(video, audio, seconds=2))[:1], container)
    assert (first.init is None) == (expected == "ts")
    assert (first.data[0] == 0x47) == (expected == "ts")


def test_hevc_is_marked_as_safari_wants_it(make_feed: MakeFeed) -> None:
    (first, *_) = mux_all(cut(make_feed("libx265", "libopus", seconds=3, bframes=2))[:1])
    assert first.init is not None and b"hvc1" in first.init and b"hev1" not in first.init


@pytest.mark.parametrize("container", ["ts", "fmp4"])
def test_each_segment_plays_alone(make_feed: MakeFeed, container: Container) -> None:
    drafts = cut(make_feed("libx264", "aac", seconds=4, bframes=2))
    for draft, segment in zip(drafts, mux_all(drafts, container), strict=True):
        got = demux((segment.init or b"") + segment.data, "mp4" if segment.init else "mpegts")
        assert len(got["video"]) + len(got["audio"]) == len(draft.messages)
        assert got["video"][0].key


@pytest.mark.parametrize(("video", "audio"), [("libx264", ""), ("", "aac")])
@pytest.mark.parametrize("container", ["ts", "fmp4"])
def test_only_real_tracks_are_listed(make_feed: MakeFeed, video: str, audio: str, container: Container) -> None:
    # Both sequence headers came, but frames of one kind only.
    header = next(m for m in make_feed("libx264", "aac") if m.type == (AUDIO if video else VIDEO))
    drafts = cut([header, *make_feed(video, audio, seconds=2)])
    (first, *_) = mux_all(drafts[:1], container)
    with av.open(io.BytesIO((first.init or b"") + first.data)) as source:
        assert [stream.type for stream in source.streams] == ["video" if video else "audio"]


def test_continuity_counters_go_on(make_feed: MakeFeed) -> None:
    segments = mux_all(cut(make_feed("libx264", "aac", seconds=4)))
    counters: dict[int, int] = {}
    for segment in segments:
        assert len(segment.data) % 188 == 0
        pids = []
        for position in range(0, len(segment.data), 188):
            packet = segment.data[position : position + 188]
            assert packet[0] == 0x47
            pid = (packet[1] & 0x1F) << 8 | packet[2]
            pids.append(pid)
            if packet[3] & 0x10:  # with payload
                if pid in counters:
                    assert packet[3] & 0x0F == (counters[pid] + 1) & 0x0F
                counters[pid] = packet[3] & 0x0F
        assert sorted(pids[:3]) == [0x0000, 0x0011, 0x1001]  # PAT, SDT, PMT before anything else
    assert set(counters) == {0x0000, 0x0011, 0x1001, 0x0120, 0x0121}


def test_presentation_is_behind_the_clock(make_feed: MakeFeed) -> None:
    (first, *_) = mux_all(cut(make_feed("libx264", "aac", seconds=2, bframes=2, start=5000)))
    packet = next(
        first.data[p : p + 188] for p in range(0, len(first.data), 188)
        if first.data[p + 3] & 0x20 and first.data[p + 4] and first.data[p + 5] & 0x10
    )
    pcr = int.from_bytes(packet[6:10], "big") << 1 | packet[10] >> 7
    dts = demux(first.data, "mpegts")["video"][0].dts
    assert dts - pcr / 90_000 == pytest.approx(0.35, abs=0.01)


@pytest.mark.parametrize("start", [WRAP_MS - 2500, (1 << 32) - 2000, 10 * WRAP_MS - 100])
def test_timestamps_wrap_as_the_transport_stream_has_it(make_feed: MakeFeed, start: int) -> None:
    messages = make_feed("libx264", "aac", seconds=4, start=start)
    segments = mux_all(cut(messages))
    assert [segment.discontinuity for segment in segments] == [True, False, False, False, False][: len(segments)]
    got = demux(b"".join(segment.data for segment in segments), "mpegts")
    assert_same_times(got["video"], sent(messages)["video"])
    assert_same_times(got["audio"], sent(messages)["audio"], 0.0015)


def test_decode_times_are_64_bits_wide(make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=3, start=1 << 36)
    segments = mux_all(cut(messages), "fmp4")
    sequence = 0
    for segment in segments:
        got = demux((segment.init or b"") + segment.data, "mp4")
        assert got["video"][0].dts >= (1 << 36) / 1000
        for position, name in _boxes(segment.data):
            if name == b"moof":
                number = int.from_bytes(segment.data[position + 20 : position + 24], "big")
                assert number == sequence + 1
                sequence = number
    assert sequence >= 3


@pytest.mark.parametrize("container", ["ts", "fmp4"])
def test_another_picture_size_is_a_discontinuity(make_feed: MakeFeed, container: Container) -> None:
    small = make_feed("libx264", "aac", seconds=2)
    large = make_feed("libx264", "aac", seconds=2, width=320, start=2000)
    segments = mux_all(cut([*small, *large]), container)
    assert [segment.discontinuity for segment in segments] == [True, False, True, False]
    widths = []
    for segment in segments:
        with av.open(io.BytesIO((segment.init or b"") + segment.data)) as source:
            widths.append(source.streams.video[0].codec_context.width)
    assert widths == [160, 160, 320, 320]
    if container == "fmp4":
        assert segments[0].init == segments[1].init != segments[2].init == segments[3].init


def test_a_track_that_turns_up_is_a_discontinuity_and_one_that_pauses_is_not(make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=4)
    silent = [m for m in messages if m.type == VIDEO or not m.payload[1] or m.timestamp > 1100]
    assert [segment.discontinuity for segment in mux_all(cut(silent))] == [True, True, False, False]
    pausing = [m for m in messages if m.type == VIDEO or not m.payload[1] or not 900 < m.timestamp < 3100]
    assert [segment.discontinuity for segment in mux_all(cut(pausing))] == [True, False, False, False]


def test_once_fragmented_mp4_never_back(make_feed: MakeFeed) -> None:
    hevc = make_feed("libx265", "aac", seconds=2)
    avc = make_feed("libx264", "aac", seconds=2, start=2000)
    muxer = Muxer("auto")
    drafts = cut([*hevc, *avc])
    assert [muxer.mux(draft).init is None for draft in drafts] == [False] * len(drafts)
    muxer.close()
    muxer = Muxer("auto")
    drafts = cut([*make_feed("libx264", "aac", seconds=2), *make_feed("libx265", "aac", seconds=2, start=2000)])
    assert [muxer.mux(draft).init is None for draft in drafts] == [True, True, False, False]
    muxer.close()


def with_offset(message: Message, milliseconds: int) -> Message:
    payload = message.payload[:2] + milliseconds.to_bytes(3, "big", signed=True) + message.payload[5:]
    return Message(message.type, message.timestamp, 1, payload)


@pytest.mark.parametrize("container", ["ts", "fmp4"])
def test_negative_composition_times(make_feed: MakeFeed, container: Container) -> None:
    plain = [m for m in make_feed("libx264", "", seconds=2) if m.type == VIDEO]
    messages = [with_offset(m, (0, 40, -40)[n % 3]) if m.payload[1] else m for n, m in enumerate(plain)]
    segments = mux_all(cut(messages), container)
    got = demux((segments[0].init or b"") + b"".join(s.data for s in segments), "mp4" if segments[0].init else "mpegts")
    video = got["video"]
    expected = sent(messages)["video"]
    assert len(video) == len(expected)
    assert all(sample.pts >= sample.dts for sample in video)
    assert all(one.dts < other.dts for one, other in pairwise(video))
    shift = video[0].pts - expected[0].pts
    assert [sample.pts - shift for sample in video] == pytest.approx([s.pts for s in expected], abs=0.0006)


@pytest.mark.parametrize("container", ["ts", "fmp4"])
def test_timestamps_that_stand_still_or_step_back_a_little(make_feed: MakeFeed, container: Container) -> None:
    messages = make_feed("libx264", "aac", seconds=2)
    for message in messages:
        message.timestamp -= message.timestamp % 90 if message.type == VIDEO else message.timestamp % 50
    drafts = cut(messages)
    segments = mux_all(drafts, container)
    assert [segment.lost for segment in segments] == [0] * len(segments)
    got = demux((segments[0].init or b"") + b"".join(s.data for s in segments), "mp4" if segments[0].init else "mpegts")
    assert len(got["video"]) + len(got["audio"]) == sum(len(draft.messages) for draft in drafts)
    for samples in got.values():
        assert all(one.dts < other.dts for one, other in pairwise(samples))


def test_a_broken_frame_costs_itself_only(make_feed: MakeFeed) -> None:
    messages = make_feed("libx264", "aac", seconds=2)
    victim = next(n for n, m in enumerate(messages) if m.type == VIDEO and m.payload[0] == 0x27 and n > 20)
    messages[victim].payload = messages[victim].payload[:5] + b"\xff\xff\xff\xffgarbage"
    segments = mux_all(cut(messages))
    assert [segment.lost for segment in segments] == [1, 0]


def test_nothing_to_package_is_said_and_survived(make_feed: MakeFeed) -> None:
    muxer = Muxer()
    with pytest.raises(UnsupportedError):
        muxer.mux(Draft(0, True, [Message(VIDEO, 0, 1, b"\x12sorenson")]))
    with pytest.raises((UnsupportedError, av.FFmpegError)):
        header = parse_video(b"\x17\x00\x00\x00\x00garbage")[0]
        muxer.mux(Draft(0, True, [Message(VIDEO, 0, 1, b"\x17\x01\x00\x00\x00\xff\xff\xff\xff")], video_header=header))
    assert muxer.mux(cut(make_feed("libx264", "aac", seconds=2))[0]).discontinuity
    muxer.close()
    muxer.close()
