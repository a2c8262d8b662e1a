from __future__ import annotations

import io

import av
import pytest

from hls.segmenter import Draft
from hls.tracks import CODECS, flv_head, read_draft
from pyrtmp.media import SEQUENCE_HEADER, AudioTag, VideoTag, parse_audio, parse_video
from pyrtmp.message import AUDIO, VIDEO, Message

AVC_CONFIG = VideoTag("h264", SEQUENCE_HEADER, False, 0, b"avcC", 0, 0)
AAC_CONFIG = AudioTag("aac", SEQUENCE_HEADER, b"\x12\x10", 0, 0, 44100, 2, 16)


def draft(*messages: Message, video: VideoTag | None = AVC_CONFIG, audio: AudioTag | None = AAC_CONFIG) -> Draft:
    return Draft(0, True, list(messages), video_header=video, audio_header=audio)


def test_frames_in_order_with_their_times() -> None:
    tracks, frames = read_draft(draft(
        Message(VIDEO, 1000, 1, b"\x17\x01\x00\x00\x50key"),
        Message(AUDIO, 1005, 1, b"\xaf\x01raw"),
        Message(VIDEO, 1040, 1, b"\x27\x01\xff\xff\xd8inter"),
    ))  # fmt: skip
    assert {kind: track.identity for kind, track in tracks.items()} == {
        VIDEO: ("h264", b"avcC"), AUDIO: ("aac", b"\x12\x10")}  # fmt: skip
    assert frames == [
        (VIDEO, 90_000, 7200, True, b"key"),
        (AUDIO, 90_450, 0, True, b"raw"),
        (VIDEO, 93_600, -3600, False, b"inter"),
    ]
    assert tracks[VIDEO].first is frames[0]


def test_nanoseconds_of_enhanced_rtmp_count() -> None:
    mod_ex = b"\x97\x02" + (500_000).to_bytes(3, "big") + b"\x01" + b"vp09frame"
    _, frames = read_draft(draft(Message(VIDEO, 10, 1, mod_ex)))
    assert frames[0].dts == 900 + 45


@pytest.mark.parametrize("message", [
    Message(VIDEO, 0, 1, b"\x17\x01\x00"),
    Message(VIDEO, 0, 1, b"\x17\x01\x00\x00\x00"),
    Message(VIDEO, 0, 1, b"\x12sorenson"),
    Message(VIDEO, 0, 1, b"\x91hvc1\x00\x00\x00other codec than the header"),
    Message(AUDIO, 0, 1, b"\xb2speex"),
    Message(AUDIO, 0, 1, b"\x91Opusno header"),
])  # fmt: skip
def test_what_cannot_be_packaged_is_left_out(message: Message) -> None:
    assert read_draft(draft(message)) == ({}, [])


def test_one_codec_a_track() -> None:
    tracks, frames = read_draft(draft(Message(AUDIO, 0, 1, b"\x2fmp3"), Message(AUDIO, 26, 1, b"\xaf\x01aac")))
    assert tracks[AUDIO].codec == "mp3" and len(frames) == 1


def test_the_default_track_of_many() -> None:
    body = b"avc1" + b"\x01\x00\x00\x09\x00\x00\x00 other" + b"\x00\x00\x00\x07\x00\x00\x00main"
    _, frames = read_draft(draft(Message(VIDEO, 0, 1, b"\x96\x11" + body)))
    assert [frame.data for frame in frames] == [b"main"]


def test_the_head_is_an_flv_file_that_libavformat_reads() -> None:
    opus = b"OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00"
    head = AudioTag("opus", SEQUENCE_HEADER, opus, 0, 0, 0, 0, 0)
    tracks, _ = read_draft(draft(Message(AUDIO, 0, 1, b"\x91Opus\xfc\xff\xfe"), audio=head))
    with av.open(io.BytesIO(flv_head(tracks)), format="flv") as source:
        (stream,) = source.streams
        assert (stream.type, stream.codec_context.name) == ("audio", "opus")
        assert stream.codec_context.extradata == opus
        (packet,) = (bytes(packet) for packet in source.demux() if packet.size)
        assert packet == b"\xfc\xff\xfe"


def test_fourccs_are_those_of_enhanced_rtmp() -> None:
    for name, codec in CODECS.items():
        video = [tag.codec for tag in parse_video(b"\x93" + codec.fourcc)]
        audio = [tag.codec for tag in parse_audio(b"\x91" + codec.fourcc)]
        assert name in video + audio
