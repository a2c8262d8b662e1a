from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.node import Node
from cluster.probe import Observer, probe
from cluster.publish import read
from pyrtmp.errors import LocalError, PeerError, RefusedError
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message


def key(time: int, size: int = 1000) -> Message:
    return Message(VIDEO, time, 1, b"\x17\x01\x00\x00\x00" + bytes(size - 5))


def frame(time: int, size: int = 1000) -> Message:
    return Message(VIDEO, time, 1, b"\x27\x01\x00\x00\x00" + bytes(size - 5))


def sound(time: int) -> Message:
    return Message(AUDIO, time, 1, b"\xaf\x01" + bytes(98))


def test_rates_come_from_media_time() -> None:
    """A joiner is handed a group of pictures at once; that must not look like a fast stream."""
    observer = Observer("rtmp://x/a/b", 100.0)
    observer.take(Message(DATA_AMF0, 0, 1, b""), 100.01)
    for number in range(101):
        observer.take((key if number % 50 == 0 else frame)(5000 + number * 20), 100.1 if number < 50 else 101.0)
        observer.take(sound(5000 + number * 20), 101.0)
    report = observer.report(102.0)
    assert (report.frames, report.fps, report.gop_ms) == (101, 50, 1000)
    assert report.video_kbps == pytest.approx(101 * 8 / 2, abs=0.1)
    assert report.audio_kbps == pytest.approx(101 * 0.8 / 2, abs=0.1)
    assert (report.media_seconds, report.seconds) == (2.0, 2.0)
    assert report.first_media_ms == report.first_frame_ms == pytest.approx(100)


def test_gaps() -> None:
    observer = Observer("rtmp://x/a/b", 0.0)
    observer.take(key(0), 0.0)
    for time, at in ((40, 0.04), (80, 0.70), (1200, 0.75), (1160, 0.76), (1240, 0.80)):
        observer.take(frame(time), at)
    report = observer.report(0.9)
    assert (report.silences, report.longest_silence_ms) == (1, 660)
    assert (report.jumps, report.steps_back) == (1, 1)
    assert "pauses of more than 500 ms: 1, jumps of the timestamps: 1, timestamps that go back: 1" in report.as_text()


def test_a_stream_that_stops_has_a_long_silence() -> None:
    observer = Observer("rtmp://x/a/b", 0.0)
    observer.take(key(0), 0.1)
    report = observer.report(5.1)
    assert (report.silences, report.longest_silence_ms) == (1, 5000)


def test_a_picture_needs_a_key_frame() -> None:
    observer = Observer("rtmp://x/a/b", 0.0)
    observer.take(frame(0), 0.1)
    report = observer.report(1.0)
    assert report.first_media_ms == 100 and report.first_frame_ms is None and not report.is_playing
    assert "nothing to see or hear within 1.0 s" in report.as_text()


def test_nothing_at_all() -> None:
    report = Observer("rtmp://x/a/b", 0.0).report(3.0)
    assert not report.is_playing and report.fps == 0 and report.gop_ms is None
    assert "nothing to see or hear" in report.as_text()


def test_sound_alone(clip: Path) -> None:
    observer = Observer("rtmp://x/a/b", 0.0)
    for message in read(clip):
        if message.type == AUDIO:
            observer.take(message, 0.25)
    report = observer.report(1.0)
    assert report.is_playing and report.first_frame_ms == 250 and report.video is None
    assert "AAC LC, 48000 Hz, 2 channels" in report.as_text()


@pytest.mark.parametrize("protocol", ["rtmp", "flv"])
async def test_a_live_stream(node: Node, live: str, protocol: str) -> None:
    url = live if protocol == "rtmp" else f"http://{node.http_address}/live/clip.flv"
    report = await probe(url, 2.2)
    assert report.is_playing and report.video is not None and report.audio is not None
    assert (report.video.codec, report.video.width, report.video.height) == ("h264", 640, 360)
    assert report.audio.sample_rate == 48000
    assert report.fps == pytest.approx(25, rel=0.05) and report.gop_ms == pytest.approx(1000, rel=0.05)
    assert report.steps_back == 0 and report.jumps == 0
    assert report.first_frame_ms is not None and report.first_frame_ms < 1500
    text = report.as_text()
    assert "H.264 Constrained Baseline 3, 640x360" in text and "a key frame every 1.0 s" in text
    assert json.loads(json.dumps(report.as_json()))["video"]["codec"] == "h264"


async def test_what_cannot_be_played(node: Node) -> None:
    for url in ("ftp://x/y", "x", "rtmp://host", "rtmp://host/app"):
        with pytest.raises(LocalError):
            await probe(url, 1)
    with pytest.raises(RefusedError, match="character"):
        await probe(f"rtmp://{node.rtmp_address}/live/<b>", 1)
    with pytest.raises(RefusedError) as caught:
        await probe(f"http://{node.http_address}/nothing", 1)
    assert caught.value.code == "HTTP 404"
    with pytest.raises(PeerError, match="does not begin with the letters FLV"):
        await probe(f"http://{node.http_address}/", 1)
    with pytest.raises(OSError):
        await probe("http://127.0.0.1:1/live/x.flv", 1)
