from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import pytest
from av.filter.graph import Graph
from av.video.frame import PictureType

from cluster.doctoring import SEVERITIES, diagnose, health
from cluster.facts import Facts, StreamFacts
from cluster.flv import FlvReader
from cluster.vitals import Claims
from pyrtmp.codecs import AudioInfo, VideoInfo
from pyrtmp.hub import Hub
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import Stream

KEY = StreamKey("live", "cam")
FPS, RATE = 25, 48000

# x264 as OBS is told to run it: a key frame every two seconds and nowhere else, no B-frames.
GOOD = {"preset": "ultrafast", "g": "50", "bf": "0", "sc_threshold": "0", "profile": "main"}


def feed(
    seconds: int = 24,
    *,
    video: dict[str, str] | None = GOOD,
    audio: str = "aac",
    rate: int = RATE,
    size: tuple[int, int] = (160, 90),
    pixels: str = "yuv420p",
) -> list[Message]:
    """What an encoder with these options sends."""
    file = io.BytesIO()
    with av.open(file, "w", format="flv", options={"flvflags": "no_duration_filesize"}) as output:
        packets: list[av.Packet] = []
        sound = output.add_stream(audio, rate=rate, layout="stereo") if audio else None
        picture = output.add_stream("libx264", rate=FPS, options=video) if video is not None else None
        if picture is not None:
            (picture.width, picture.height), picture.pix_fmt = size, pixels
            for number, frame in enumerate(pictures(seconds * FPS, size, pixels)):
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                frame.pict_type = PictureType.NONE  # the source marks each as a key frame
                packets += picture.encode(frame)
            packets += picture.encode(None)
        if sound is not None:
            samples = 1152 if audio == "libmp3lame" else 1024
            for start in range(0, seconds * rate, samples):
                piece = av.AudioFrame(format="fltp", layout="stereo", samples=samples)
                for plane in piece.planes:
                    plane.update(bytes(plane.buffer_size))
                piece.sample_rate, piece.pts, piece.time_base = rate, start, Fraction(1, rate)
                packets += sound.encode(piece)
            packets += sound.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    return FlvReader().feed(file.getvalue())


def pictures(count: int, size: tuple[int, int], pixels: str) -> Iterator[av.VideoFrame]:
    graph = Graph()
    source = graph.add("testsrc2", f"size={size[0]}x{size[1]}:rate={FPS}")
    shape, sink = graph.add("format", f"pix_fmts={pixels}"), graph.add("buffersink")
    source.link_to(shape)
    shape.link_to(sink)
    graph.configure()
    for _ in range(count):
        yield graph.vpull()


class Somebody:
    id = "p"

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        pass


class World:
    """A hub whose stream gets a feed as time goes by, looked at once a second."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.hub = Hub(StreamSettings(), lambda stream: None)
        self.clients: dict[str, Any] = {}
        self.facts = Facts(self, lambda: self.now)  # type: ignore[arg-type]
        self.stream = self.hub.publish(KEY, Somebody(), self.now)

    def play(
        self, messages: Iterable[Message], *, pace: float = 1.0, stamp: Callable[[Message], int] | None = None
    ) -> StreamFacts:
        """Let ``pace`` seconds of it come each second; ``stamp``: the timestamps that they come with."""
        began = next_look = self.now
        for message in messages:
            while began + message.timestamp / 1000 / pace >= next_look:
                self.now = next_look = next_look + 1.0
                self.facts.sample()
            self.stream.last_message = self.now
            time = message.timestamp if stamp is None else stamp(message)
            self.stream.push(Message(message.type, time, 1, message.payload))
        return self.facts.streams()[0]

    def wait(self, seconds: int) -> StreamFacts:
        for _ in range(seconds):
            self.now += 1.0
            self.facts.sample()
        return self.facts.streams()[0]


def findings(stream: StreamFacts) -> dict[str, str]:
    """Severities by the rule that found something."""
    return {each.id: each.severity for each in diagnose(stream)}


@pytest.fixture(scope="module")
def good() -> list[Message]:
    return feed()


@pytest.fixture(scope="module")
def healthy(good: list[Message]) -> StreamFacts:
    return World().play(good)


def test_a_healthy_stream_is_told_nothing(healthy: StreamFacts) -> None:
    assert healthy.vitals.seconds > 20 and healthy.video is not None and healthy.audio is not None
    assert diagnose(healthy) == [] and health(healthy) == "good"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"video": GOOD | {"g": "150"}}, {"long_gop": "warning"}),
        ({"video": GOOD | {"g": "10000"}}, {"long_gop": "problem"}),
        ({"video": GOOD | {"bf": "2"}}, {"b_frames": "advice"}),
        ({"video": GOOD | {"bf": "3", "g": "150"}}, {"long_gop": "warning", "b_frames": "advice"}),
        ({"audio": ""}, {"no_audio": "warning"}),
        ({"video": None}, {"no_video": "advice"}),
        ({"audio": "libmp3lame", "rate": 44100}, {"audio_codec": "advice"}),
        ({"rate": 32000}, {"sample_rate": "advice"}),
        ({"pixels": "yuv422p", "video": {**GOOD, "profile": "high422"}}, {"video_profile": "problem"}),
    ],
)
def test_what_encoders_are_told_to_send(options: dict[str, Any], wanted: dict[str, str]) -> None:
    assert findings(World().play(feed(**options))) == wanted


def test_groups_that_differ() -> None:
    later = [Message(m.type, m.timestamp + 8000, 0, m.payload) for m in feed(12, video=GOOD | {"g": "80"})]
    assert findings(World().play(feed(8, video=GOOD | {"g": "25"}) + later)) == {"uneven_gop": "advice"}


def test_an_upload_that_is_too_slow(good: list[Message]) -> None:
    assert findings(World().play(good, pace=0.8)) == {"slow": "problem"}


def test_a_file_without_re(good: list[Message]) -> None:
    assert findings(World().play(good, pace=1.5)) == {"fast": "warning"}


def test_a_publisher_that_stopped(good: list[Message]) -> None:
    world = World()
    world.play(good)
    assert findings(world.wait(5)) == {"silent": "problem"}


@pytest.mark.parametrize(("step", "way"), [(-7000, "back"), (7000, "ahead")])
def test_timestamps_that_jump(good: list[Message], step: int, way: str) -> None:
    base = 10_000
    stream = World().play(good, stamp=lambda m: base + m.timestamp + (step if m.timestamp > 12_000 else 0))
    [found] = diagnose(stream)
    assert found.id == "time_jumps" and "once" in found.finding and way in found.finding
    assert diagnose(replace(stream, vitals=replace(stream.vitals, jump_age=3600.0))) == []


@pytest.mark.parametrize(("late", "track"), [(-3000, "sound"), (3000, "picture")])
def test_sound_that_is_not_with_its_picture(good: list[Message], late: int, track: str) -> None:
    stream = World().play(good, stamp=lambda m: 10_000 + m.timestamp + (late if m.type == AUDIO else 0))
    [found] = diagnose(stream)
    assert (found.id, found.severity) == ("apart", "problem") and track in found.finding


def test_sound_that_stops(good: list[Message]) -> None:
    stream = World().play(m for m in good if m.type != AUDIO or m.timestamp < 12_000)
    assert findings(stream) == {"apart": "problem"}


def test_frames_that_are_missed(good: list[Message]) -> None:
    frames = {id(m): number for number, m in enumerate(m for m in good if m.type == VIDEO and len(m.payload) > 60)}
    stream = World().play(m for m in good if frames.get(id(m), 0) % 25 in range(16))
    assert findings(stream) == {"few_frames": "warning"}


def test_a_bit_rate_that_falls() -> None:
    fine, coarse = feed(30, video=GOOD | {"crf": "10"}), feed(8, video=GOOD | {"crf": "45"})
    later = [Message(m.type, m.timestamp + 30_000, 0, m.payload) for m in coarse]
    assert findings(World().play(fine + later)) == {"bit_rate_fell": "warning"}


def test_what_the_metadata_announce_does_not_come(good: list[Message]) -> None:
    """What ffmpeg announces for two tracks comes with one."""
    silent = World().play(m for m in good if m.type != AUDIO)
    assert silent.vitals.claims.audio and findings(silent) == {"no_audio": "problem"}
    blind = World().play(m for m in good if m.type != VIDEO)
    assert findings(blind) == {"no_video": "problem"}
    other = [m for m in feed(2, size=(320, 180)) if m.type == DATA_AMF0]
    assert findings(World().play(other + [m for m in good if m.type != DATA_AMF0])) == {"wrong_size": "advice"}


H264, AAC = VideoInfo("h264", 1920, 1080, "High", "4.2", 60.0), AudioInfo("aac", 48000, 2, "LC")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"video": replace(H264, codec="hevc", profile="Main")}, {"video_codec": "warning"}),
        ({"video": replace(H264, codec="av1", profile="Main")}, {"video_codec": "warning"}),
        ({"video": replace(H264, codec="vp6")}, {"video_codec": "problem"}),
        ({"video": replace(H264, codec="")}, {"video_codec": "problem"}),
        ({"video": replace(H264, width=1919)}, {"odd_size": "warning"}),
        ({"video": replace(H264, width=7680, height=4320)}, {"large_picture": "warning"}),
        ({"audio": replace(AAC, codec="opus")}, {"audio_codec": "warning"}),
        (
            {"audio": replace(AAC, codec="speex", sample_rate=16000)},
            {"audio_codec": "problem", "sample_rate": "advice"},
        ),
        ({"audio": replace(AAC, channels=6)}, {"channels": "advice"}),
        ({"kbps_in": 60_000.0, "kbps_in_30s": 60_000.0}, {"bit_rate_high": "advice"}),
    ],
)
def test_what_players_cannot_take(healthy: StreamFacts, change: dict[str, Any], wanted: dict[str, str]) -> None:
    vitals = replace(healthy.vitals, claims=Claims())
    assert findings(replace(healthy, **{"video": H264, "audio": AAC, "fps": 60.0, "vitals": vitals} | change)) == wanted


def test_nothing_is_said_of_what_is_not_seen(healthy: StreamFacts) -> None:
    sick = replace(healthy, video=replace(H264, codec="vp6"))
    for unseen in (replace(sick, state="gone"), replace(sick, vitals=replace(sick.vitals, seconds=0.0))):
        assert diagnose(unseen) == [] and health(unseen) == "unknown"


def test_the_worst_comes_first(healthy: StreamFacts) -> None:
    sick = replace(
        healthy, audio=replace(AAC, channels=6, codec="opus"), vitals=replace(healthy.vitals, longest_gop_ms=20_000)
    )
    found = diagnose(sick)
    ranks = [SEVERITIES.index(each.severity) for each in found]
    assert ranks == sorted(ranks) and len(found) == 3 and health(sick) == "problem"
    assert all(each.finding and each.effect and each.remedy for each in found)
