from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from cluster.vitals import LEAST_SECONDS, Claims, Vitals, Watch
from pyrtmp import amf
from pyrtmp.hub import Hub
from pyrtmp.message import AUDIO, DATA_AMF0, VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import Stream


@dataclass
class Somebody:
    id: str = "p"

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        pass


class Feed:
    """A stream whose publisher sends 25 pictures and 40 pieces of sound a second, in time with the clock."""

    def __init__(self, *, start: int = 40, gop: int = 50, reorder: int = 0) -> None:
        self.now = 100.0
        self.media = start
        self.frames = 0
        self.watch = Watch()
        self._gop, self._reorder = gop, reorder
        self._hub = Hub(StreamSettings(), lambda stream: None)
        self.stream = self._hub.publish(StreamKey("live", "cam"), Somebody(), self.now)

    def picture(self) -> None:
        key = self.frames % self._gop == 0
        self.frames += 1
        self.push(VIDEO, (b"\x17" if key else b"\x27") + b"\x01" + self._reorder.to_bytes(3, "big") + bytes(995))

    def push(self, type: int, payload: bytes, time: int | None = None) -> None:
        self.stream.last_message = self.now
        self.stream.push(Message(type, (self.media if time is None else time) % (1 << 32), 1, payload))

    def second(self, *, pace: float = 1.0, sound: int | None = 0) -> None:
        """One second passes; ``pace`` seconds of media come; ``sound``: how far ahead it is, None for none."""
        for _ in range(round(25 * pace)):
            self.media += 40
            self.picture()
            if sound is not None:
                self.push(AUDIO, b"\xaf\x01" + bytes(98), self.media + sound)
        self.now += 1.0
        self.watch.look(self.stream, self.now)

    def seconds(self, number: int, **more: Any) -> Vitals:
        for _ in range(number):
            self.second(**more)
        return self.watch.vitals()


def test_nothing_is_known_of_what_was_not_looked_at() -> None:
    assert Watch().vitals() == Vitals()


def test_a_healthy_stream() -> None:
    vitals = Feed().seconds(40)
    assert vitals.seconds == 39 and vitals.silent == 1.0
    assert vitals.pace == pytest.approx(1.0)
    assert (vitals.shortest_gop_ms, vitals.longest_gop_ms) == (2000, 2000) and vitals.key_age <= 2
    assert (vitals.jumps_back, vitals.jumps_ahead, vitals.reorder_ms, vitals.sound_ahead_ms) == (0, 0, 0, 0)
    assert vitals.usual_kbps == pytest.approx(25 * (1000 + 100) * 8 / 1000)
    assert vitals.usual_fps == 25


def test_looks_too_close_together_count_as_one() -> None:
    feed = Feed()
    once = feed.seconds(10)
    feed.watch.look(feed.stream, feed.now + LEAST_SECONDS / 2)
    assert feed.watch.vitals().seconds == once.seconds


@pytest.mark.parametrize("pace", [0.6, 0.88, 1.6])
def test_pace(pace: float) -> None:
    vitals = Feed().seconds(40, pace=pace)
    assert vitals.pace == pytest.approx(pace) and vitals.jumps_ahead == vitals.jumps_back == 0


def test_what_a_publisher_sends_when_it_begins_is_no_pace() -> None:
    feed = Feed()
    feed.seconds(2, pace=4)
    assert feed.seconds(20).pace == pytest.approx(1.0)


@pytest.mark.parametrize(("step", "back", "ahead"), [(-5000, 1, 0), (-1500, 1, 0), (9000, 0, 1), (1000, 0, 0)])
def test_jumps(step: int, back: int, ahead: int) -> None:
    feed = Feed()
    feed.seconds(10)
    feed.media += step
    vitals = feed.seconds(3)
    assert (vitals.jumps_back, vitals.jumps_ahead) == (back, ahead)
    if back or ahead:
        assert vitals.jumped_ms == pytest.approx(step + 1000, abs=100) and vitals.jump_age == 2
    assert feed.seconds(12).pace == pytest.approx(1.0, abs=0.06)


def test_what_comes_late_but_whole_is_no_jump() -> None:
    feed = Feed()
    feed.seconds(10)
    feed.now += 6.0
    feed.watch.look(feed.stream, feed.now)
    assert feed.watch.vitals().silent == 7.0
    vitals = feed.seconds(1, pace=7)
    assert (vitals.jumps_back, vitals.jumps_ahead) == (0, 0)


def test_timestamps_that_start_anywhere_and_wrap_are_no_jump() -> None:
    for start in (0, 1_000_000_000, (1 << 32) - 5000):
        vitals = Feed(start=start).seconds(12)
        assert (vitals.jumps_back, vitals.jumps_ahead) == (0, 0) and vitals.pace == pytest.approx(1.0)


def test_another_publisher_begins_anew() -> None:
    feed = Feed()
    feed.seconds(5)
    feed.media -= 3000
    assert feed.seconds(1).jumps_back == 1
    feed.stream.leave(feed.now)
    feed.stream.begin(Somebody("q"), feed.now)
    vitals = feed.seconds(10)
    assert vitals.jumps_back == vitals.jumps_ahead == 0 and vitals.seconds <= 10


def test_sound_and_picture_apart() -> None:
    assert Feed().seconds(10, sound=-700).sound_ahead_ms == -700
    feed = Feed()
    feed.seconds(10)
    assert -7000 <= feed.seconds(6, sound=None).sound_ahead_ms <= -3000  # it stopped


def test_key_frames_that_stay_away() -> None:
    feed = Feed(gop=10_000)
    vitals = feed.seconds(20)
    assert vitals.key_age >= 18 and vitals.longest_gop_ms == 0


def test_uneven_groups() -> None:
    feed = Feed(gop=25)
    feed.seconds(6)
    feed._gop = 75
    vitals = feed.seconds(12)
    assert vitals.shortest_gop_ms == 1000 and vitals.longest_gop_ms == 3000


def test_pictures_that_are_shown_later() -> None:
    assert Feed(reorder=80).seconds(3).reorder_ms == 80


def test_sound_alone_and_nothing_at_all() -> None:
    feed = Feed()
    feed.watch.look(feed.stream, feed.now + 1)
    for number in range(10):
        for piece in range(40):
            feed.push(AUDIO, b"\xaf\x01" + bytes(98), 1000 * number + 25 * piece)
        feed.now += 1
        feed.watch.look(feed.stream, feed.now)
    vitals = feed.watch.vitals()
    assert vitals.usual_fps == 0 and vitals.sound_ahead_ms == 0 and vitals.reorder_ms == 0
    assert vitals.jumps_ahead == vitals.jumps_back == 0


def test_tags_that_make_no_sense() -> None:
    feed = Feed()
    for payload in (b"", b"\x17", b"\x17\x01", b"\x90", b"\x96\x05" + bytes(70), b"\xff" * 100):
        feed.push(VIDEO, payload)
        feed.push(AUDIO, payload)
        feed.second()
    assert feed.watch.vitals().reorder_ms >= 0


def test_claims() -> None:
    metadata = {
        "framerate": 30.0, "width": 1280.0, "height": 720,
        "audiocodecid": 10.0, "videocodecid": "avc1",
    }  # fmt: skip
    assert Claims.read(metadata) == Claims(30.0, 1280, 720, True, True)
    nonsense = {
        "framerate": float("inf"), "width": "1280", "height": float("nan"), "audiocodecid": 0.0, "videocodecid": None,
    }  # fmt: skip
    assert Claims.read(nonsense) == Claims.read({"width": True, "height": -5}) == Claims()
    feed = Feed()
    feed.push(DATA_AMF0, amf.encode0("onMetaData", metadata))
    assert feed.seconds(2).claims.fps == 30.0
