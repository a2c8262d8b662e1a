from __future__ import annotations

import pytest

from hls import audience as module
from hls.audience import Audience, Watched
from pyrtmp.names import StreamKey

CAM, DOG = StreamKey("live", "cam"), StreamKey("live", "dog")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, to be set."""
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def test_a_player_is_an_address_and_an_agent(clock: list[float]) -> None:
    audience = Audience(30)
    assert audience.saw(CAM, "10.0.0.1", "vlc", 10)
    assert not audience.saw(CAM, "10.0.0.1", "vlc", 10)
    assert audience.saw(CAM, "10.0.0.1", "hls.js", 10)
    assert audience.saw(CAM, "10.0.0.2", "vlc", 10)
    assert audience.saw(DOG, "10.0.0.1", "vlc", 5)
    assert audience.viewers() == {CAM: 3, DOG: 1}
    assert audience.members() == [
        (CAM, "10.0.0.1", "vlc"), (CAM, "10.0.0.1", "hls.js"), (CAM, "10.0.0.2", "vlc"), (DOG, "10.0.0.1", "vlc")
    ]  # fmt: skip
    assert audience.bytes_out == {CAM: 40, DOG: 5}
    assert audience.requests == 5


def test_who_does_not_ask_any_more_is_gone(clock: list[float]) -> None:
    audience = Audience(30)
    audience.saw(CAM, "a", "", 1)
    audience.saw(DOG, "b", "", 1)
    clock[0] += 29
    audience.saw(CAM, "a", "", 1)
    assert audience.viewers() == {CAM: 1, DOG: 1}
    clock[0] += 2
    assert audience.viewers() == {CAM: 1}
    assert DOG not in audience.bytes_out
    clock[0] += 30
    assert not audience.viewers()
    assert audience.saw(CAM, "a", "", 1)


def test_what_those_had_who_leave(clock: list[float]) -> None:
    left: list[tuple[StreamKey, str, str, Watched]] = []
    audience = Audience(30, lambda *facts: left.append(facts))
    for sent in (100, 20):
        audience.saw(CAM, "a", "vlc", sent)
        clock[0] += 10
    assert audience.members() and not left
    clock[0] += 20
    assert not audience.members()
    assert left == [(CAM, "a", "vlc", Watched(since=100, seen=110, requests=2, bytes_out=120))]
    audience.members()
    assert len(left) == 1


def test_the_gone_are_forgotten_without_anybody_looking(clock: list[float]) -> None:
    audience = Audience(30)
    for number in range(100):
        audience.saw(CAM, str(number), "", 1)
        clock[0] += 1
    assert len(audience._members) <= 46


def test_memory_is_bounded(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMBERS", 10)
    audience = Audience(30)
    for number in range(50):
        audience.saw(CAM, str(number), "", 1)
    assert audience.viewers() == {CAM: 10}
    assert audience.bytes_out[CAM] == 50
